"""Towers as a folder of sentence-transformers, made of its own modules: no code of ours is needed.

Both towers are the routes of a Router, which takes the one of a sample's modality; one tower alone
is a plain model, as servers of text embeddings take it.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.extras import require
from contrastive.encoders import (
    HFDualImage,
    HFDualText,
    HFImage,
    HFText,
    ResNet,
    SentenceTransformers,
    Timm,
    ViT,
)
from contrastive.encoders.huggingface import quiet_huggingface
from contrastive.errors import SpecError
from contrastive.exporters import transformers as dual
from contrastive.exporters.st_heads import head_modules, head_problem
from contrastive.exporters.st_peers import Route, peer_problem, peer_route, with_prompt
from contrastive.exporters.st_transformers import model_modules, model_problem, padding_problem
from contrastive.exporters.targets import quoted
from contrastive.exporters.timm_networks import timm_problem, write_timm
from contrastive.heads import Mlp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.encoders.hf_image import HFImageModule
    from contrastive.encoders.hf_text import HFTextModule
    from contrastive.encoders.sentence_transformers import SentenceTransformersModule
    from contrastive.model.model import ContrastiveModel
    from contrastive.model.tower import TowerModule

DUAL = (HFDualImage, HFDualText)
SCRATCH = ".models"
SERVED = {"Transformer", "Pooling", "Dense", "Normalize"}
"""Modules that text-embeddings-inference 1.9 knows, by names of sentence-transformers before 6."""
SERVED_MODELS = frozenset(
    [
        "bert",
        "camembert",
        "distilbert",
        "gemma3_text",
        "mistral",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "qwen2",
        "qwen3",
        "roberta",
        "xlm-roberta",
    ]
)
"""Its models, by their ``model_type``."""
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
"""How a pooling is told there."""


def check(model: ContrastiveModel, towers: Sequence[str]) -> None:
    """Insist that each tower is made of what sentence-transformers has modules for.

    Raises:
        SpecError: one is not.
        MissingExtra: sentence-transformers is not installed.
    """
    require("sentence_transformers", extra="sentence-transformers")
    for modality in towers:
        tower = model.tower(modality)
        if problem := _problem(model, tower, towers) or head_problem(tower.spec.head):
            msg = f"towers.{modality}: sentence-transformers cannot embed with it: {problem}"
            raise SpecError(msg)


@quiet_huggingface()
def write(model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
    """Write the folder, and return what a server of text embeddings does not take."""
    library = require("sentence_transformers", extra="sentence-transformers")
    modules = require(
        "sentence_transformers.sentence_transformer.modules", extra="sentence-transformers"
    )
    scratch = folder / SCRATCH
    shared = _dual_module(model, scratch) if _is_dual(model, towers) else None
    routes = {modality: _route(model.tower(modality), scratch, shared) for modality in towers}
    several = {modality: route.modules for modality, route in routes.items()}
    if len(towers) > 1:
        parts = [modules.Router(several, default_route=towers[-1])]
    else:
        parts = several[towers[0]]
    text = routes.get("text", Route([]))
    made = library.SentenceTransformer(
        modules=[*parts, modules.Normalize()],
        device="cpu",
        prompts=text.prompts or None,
        default_prompt_name=text.default_prompt,
        similarity_fn_name="cosine",
    )
    shutil.rmtree(scratch, ignore_errors=True)
    made.save_pretrained(str(folder), create_model_card=False)
    return _for_servers(model, folder, text) if [*towers] == ["text"] else []


def usage(folder: Path, towers: Sequence[str]) -> str:
    """Return how the folder is loaded."""
    lines = [
        "from sentence_transformers import SentenceTransformer",
        f"model = SentenceTransformer({quoted(folder)})",
    ]
    if "image" in towers:
        lines.insert(0, "from PIL import Image")
        lines.append('images = model.encode([Image.open("photo.jpg").convert("RGB")])')
    if "text" in towers:
        lines.append('texts = model.encode(["a photo of a cat"])')
    return "\n".join(lines)


def _problem(model: ContrastiveModel, tower: TowerModule, towers: Sequence[str]) -> str:
    """Return why an encoder has no modules there; nothing if it has."""
    spec, encoder = tower.spec.encoder, tower.encoder
    if type(spec) in (Timm, ResNet, ViT):
        problem = timm_problem(cast("Any", spec), encoder)
    elif type(spec) in (HFImage, HFText):
        problem = model_problem(encoder)
    elif type(spec) is SentenceTransformers:
        problem = peer_problem(spec, cast("SentenceTransformersModule", encoder))
    elif type(spec) in DUAL:
        problem = _dual_problem(model, tower, towers)
    else:
        problem = f"it has no module for {spec.registry.name_of(type(spec))}"
    return problem


def _dual_problem(model: ContrastiveModel, tower: TowerModule, towers: Sequence[str]) -> str:
    if not _is_dual(model, towers):
        return "one half of a dual model is loaded with the other alone; export both"
    try:
        dual.check_halves(model)
    except SpecError as error:
        return str(error)
    encoder: Any = tower.encoder
    return padding_problem(encoder)


def _is_dual(model: ContrastiveModel, towers: Sequence[str]) -> bool:
    return len(towers) == len(DUAL) and all(
        type(model.tower(modality).spec.encoder) in DUAL for modality in towers
    )


def _route(tower: TowerModule, scratch: Path, shared: Any) -> Route:
    """Return the modules of a tower but the normalisation, and its prompts."""
    spec, encoder = tower.spec.encoder, tower.encoder
    if shared is not None:
        found = Route([shared])
    elif isinstance(spec, (Timm, ResNet, ViT)):
        found = Route([_timm_module(spec, tower, scratch / encoder.modality)])
    elif isinstance(spec, SentenceTransformers):
        found = peer_route(spec, cast("SentenceTransformersModule", encoder))
    else:
        inner = cast("HFImageModule | HFTextModule", encoder)
        modules = model_modules(inner, scratch / encoder.modality)
        found = with_prompt(modules, getattr(encoder.preprocess, "prompt", ""))
    found.modules.extend(head_modules(tower.spec.head, tower.head))
    return found


def _timm_module(spec: ResNet | Timm | ViT, tower: TowerModule, folder: Path) -> Any:
    write_timm(spec, tower.encoder, folder)
    return _transformer(folder, {"image": ("forward", "pooler_output")})


def _dual_module(model: ContrastiveModel, scratch: Path) -> Any:
    """Return a dual model as one module, which both routes share."""
    scratch.mkdir()
    dual.write(model, scratch, [*model.towers])
    methods = {m: (f"get_{m}_features", "pooler_output") for m in ("image", "text")}
    text: Any = model.tower("text").encoder.preprocess
    padding = {"text": {"padding": text.padding, "max_length": text.max_length}}
    options = {"processing_kwargs": padding} if text.padding == "max_length" else {}
    return _transformer(scratch, methods, **options)


def _transformer(folder: Path, methods: dict[str, tuple[str, str]], **options: Any) -> Any:
    modules = require(
        "sentence_transformers.sentence_transformer.modules", extra="sentence-transformers"
    )
    config = {
        modality: {"method": method, "method_output_name": output}
        for modality, (method, output) in methods.items()
    }
    return modules.Transformer(
        str(folder), modality_config=config, module_output_name="sentence_embedding", **options
    )


def _for_servers(model: ContrastiveModel, folder: Path, text: Route) -> list[str]:
    """Write down the modules of a text tower as servers of text embeddings read them."""
    place = folder / "modules.json"
    entries: list[dict[str, Any]] = json.loads(place.read_text("utf-8"))
    kinds = [entry["type"].rpartition(".")[2] for entry in entries]
    if problem := _not_served(model, text, kinds):
        return [f"text-embeddings-inference does not serve it: {problem}"]
    for entry, kind in zip(entries, kinds, strict=True):
        entry["type"] = f"sentence_transformers.models.{kind}"
    _write(place, entries)
    _change(folder / "1_Pooling" / "config.json", _pooling_flags(text.modules[1].pooling_mode))
    _change(
        folder / "sentence_bert_config.json", {"max_seq_length": text.modules[0].max_seq_length}
    )
    option = f" --default-prompt-name {text.default_prompt}" if text.default_prompt else ""
    return [
        f"text-embeddings-inference reads the folder, too: start it with --dtype float32{option}"
    ]


def _not_served(model: ContrastiveModel, text: Route, kinds: list[str]) -> str:
    """Return what a server of text embeddings lacks for a text tower; nothing if it has all."""
    if kinds[:2] != ["Transformer", "Pooling"] or {*kinds[2:]} - {"Dense", "Normalize"}:
        lacking = next((kind for kind in kinds if kind not in SERVED), "model without Pooling")
        return f"it has no {lacking}"
    if isinstance(model.tower("text").spec.head, Mlp):
        return "its Dense layers have Tanh or Identity only, as a linear head needs, not this mlp"
    kind, pooling = text.modules[0].config.model_type, text.modules[1].pooling_mode
    if kind not in SERVED_MODELS:
        return f"it has no {kind}"
    if pooling not in ("cls", "mean"):
        return f"its pooling is cls or mean, not {pooling}"
    return ""


def _pooling_flags(pooling: str) -> dict[str, Any]:
    return {flag: pooling == mode for flag, mode in POOLING_FLAGS.items()}


def _change(place: Path, more: dict[str, Any]) -> None:
    _write(place, json.loads(place.read_text("utf-8")) | more)


def _write(place: Path, content: Any) -> None:
    place.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
