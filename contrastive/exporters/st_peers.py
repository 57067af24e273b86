"""Models of sentence-transformers as a route of one: their own modules, prompts and lengths."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive.encoders.sentence_transformers import NO_LIMIT, takes_length
from contrastive.exporters.st_heads import cut
from contrastive.exporters.st_transformers import complete, loaded_class, padding_problem

if TYPE_CHECKING:
    from contrastive.encoders import SentenceTransformers
    from contrastive.encoders.sentence_transformers import SentenceTransformersModule

TRAINED = "trained"
"""The name of a prompt that a spec gives, among a model's own."""


@dataclass(frozen=True)
class Route:
    """The modules of a tower, and what goes before each text."""

    modules: list[Any]
    prompts: dict[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None
    """By its name."""


def with_prompt(modules: list[Any], prompt: str, known: dict[str, str] | None = None) -> Route:
    """Return a route whose texts begin with a prompt, by the name that it has already.

    Without prompts of a model's own, ``encode_query`` and ``encode_document`` take it too.
    """
    if not prompt:
        return Route(modules, dict(known or {}))
    prompts = dict.fromkeys(("query", "document"), prompt) if known is None else known
    named = [name for name, text in prompts.items() if text == prompt and known]
    name = named[0] if named else TRAINED
    return Route(modules, prompts | {name: prompt}, name)


def peer_problem(spec: SentenceTransformers, encoder: SentenceTransformersModule) -> str:
    """Return why a model's modules would not embed as the tower does; nothing if they do."""
    if problem := padding_problem(encoder):
        return problem
    first: Any = encoder.model[0]
    if getattr(first, "route_mappings", None):
        return "the routes of its router are chosen by more than the task"
    if spec.task and not hasattr(first, "sub_modules"):
        lengths = [getattr(part, f"{spec.task}_length", None) for part in first.modules()]
        if any(lengths):
            return f"the length of a {spec.task} is heeded only where each call names the task"
    return ""


def peer_route(spec: SentenceTransformers, encoder: SentenceTransformersModule) -> Route:
    """Return the modules of a model, which cut texts where the tower does."""
    model = deepcopy(encoder.model)
    preprocess: Any = encoder.preprocess
    modules = [*model]
    if routes := getattr(modules[0], "sub_modules", None):
        chosen = spec.task if spec.task in routes else modules[0].default_route
        modules[:1] = [*routes[chosen]]
    for part in modules[0].modules():
        if preprocess.max_length and takes_length(part):
            part.max_seq_length = min(part.max_seq_length or NO_LIMIT, preprocess.max_length)
        tokenizer: Any = getattr(part, "tokenizer", None)
        if hasattr(tokenizer, "padding_side"):
            tokenizer.padding_side = "right"
        if hasattr(part, "auto_model") and loaded_class(part.model):
            part.model = complete(part.model)
    kept, model.truncate_dim = model.truncate_dim, None
    if kept and kept < (width := model.get_embedding_dimension()):
        modules.append(cut(width, kept))
    return with_prompt(modules, preprocess.prompt or "", model.prompts)
