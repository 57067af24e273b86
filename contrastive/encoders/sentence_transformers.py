"""Text models of sentence-transformers, by their own preprocessing, so that no step is lost.

Shapes: B texts, L tokens, F features.
"""

from __future__ import annotations

import copy
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from contrastive.config.extras import require
from contrastive.encoders.hf_text import LONGEST, check_length, longest_taken, positions
from contrastive.encoders.huggingface import (
    check_loaded,
    check_no_missing_weights,
    drop_pooler,
    never_saved,
    quiet_huggingface,
    whole_at_once,
)
from contrastive.encoders.text import texts
from contrastive.encoders.token_encoder import TokenEncoder, some_words
from contrastive.encoders.trial import measure_out_dim
from contrastive.encoders.vocabulary import check_ids, vocabulary_size
from contrastive.encoders.weights import file_hash, find_weights, loading_weights, weight_files
from contrastive.errors import BadSample, ContrastiveError, SpecError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from contrastive.encoders import SentenceTransformers

NO_LIMIT = 1_000_000  # tokens: what says more says none
PROMPTS_OF_TASK = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""The names under which ``encode_query`` and ``encode_document`` look for a prompt."""


class SentenceTransformersModule(TokenEncoder):
    """What the model's own preprocessing gives, to sentence embeddings ``[B, F]``."""

    reproducible = True

    def __init__(self, spec: SentenceTransformers) -> None:
        """Load the model; its preprocessing runs in our workers, so ``encode`` is not used."""
        super().__init__()
        require("sentence_transformers", extra="sentence-transformers")  # before any download
        who = f"sentence-transformers {spec.name!r}"
        bare = "/" not in spec.name and not Path(spec.name).is_dir()
        folder = find_weights(
            who, f"sentence-transformers/{spec.name}" if bare else spec.name, spec.revision
        )
        self.model = _load(folder, who)
        self.options = {"task": spec.task} if spec.task else {}
        self.truncate_dim: int | None = self.model.truncate_dim
        length = self._limit(spec.max_length, who)
        self.preprocess = SentencePreprocess(
            without_weights(self.model[0]),
            length,
            _prompt(self.model, spec, who),
            spec.task,
            digest := file_hash(folder),
        )
        self.folder_config = digest
        with _told(who):
            found = self.preprocess.all_of(["a picture"])
        self.constants = {name: x for name, x in found.items() if not isinstance(x, Tensor)}
        if tokenizer := self.preprocess.tokenizer:
            known = vocabulary_size(self, tokenizer, who)
            self.preprocess = replace(self.preprocess, vocabulary=known)
        if (inner := self.model.transformers_model) is not None and length:
            taken = longest_taken(self, length, inner.config)
            check_length(spec.max_length, taken, who)
            self.preprocess = self.preprocess.cut_at(taken)
        self.out_dim = measure_out_dim(self, "a picture", who)

    def _limit(self, asked: int | None, who: str) -> int | None:
        """Return how many tokens are read, at most; None if a text is read whole."""
        cutting = [part for part in self.model[0].modules() if takes_length(part)]
        if asked and not cutting:
            msg = f"{who}: the model reads texts whole; leave max_length out"
            raise SpecError(msg)
        for part in cutting if asked else ():
            part.max_seq_length = asked
            part.query_length = part.document_length = None
            getattr(part, "processing_kwargs", {}).get("text", {}).pop("max_length", None)
        saved = [n for part in cutting if (n := part.max_seq_length) and 0 < n < NO_LIMIT]
        if (inner := self.model.transformers_model) is None:
            return max(saved, default=None)
        drop_pooler(inner)
        whole_at_once(inner)
        inner.config.use_cache = False  # nothing is generated, and layers may run twice
        limit = positions(inner.config)
        check_length(asked, limit, who)
        return min(max(saved, default=LONGEST), limit)

    def words(self) -> list[str]:
        """Return some words that the model knows."""
        preprocess: Any = self.preprocess
        tokenizer = preprocess.tokenizer
        return some_words(tokenizer.get_vocab()) if tokenizer else []

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of what the preprocessing gives."""
        features = self.model(_packed(inputs) | self.constants, **self.options)
        return features["sentence_embedding"][:, : self.truncate_dim]


@dataclass(frozen=True)
class SentencePreprocess:
    """The preprocessing of a model of sentence-transformers, with a row for each text."""

    first: Any = field(repr=False)
    """The module that does it, without weights."""
    max_length: int | None
    """Tokens; the rest of a text is cut off."""
    prompt: str | None
    """Put before each text, or into the chat template."""
    task: str | None
    """Of the model's route, length and template."""
    digest: str
    """SHA-256 of the model's files but its weights, for the ``repr``."""
    vocabulary: int = field(default=sys.maxsize, repr=False)
    """Tokens that the model has embeddings for."""

    def __post_init__(self) -> None:
        """Cut and pad as asked; on the right, so that no text depends on the others' lengths."""
        for part in self.first.modules():
            if self.max_length and takes_length(part):
                part.max_seq_length = min(part.max_seq_length or self.max_length, self.max_length)
            tokenizer: Any = getattr(part, "tokenizer", None)
            if hasattr(tokenizer, "padding_side"):
                tokenizer.padding_side = "right"

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if there is one."""
        several = (getattr(part, "tokenizer", None) for part in self.first.modules())
        return next((one for one in several if hasattr(one, "get_vocab")), None)

    def cut_at(self, max_length: int) -> SentencePreprocess:
        """Return the same for other lengths."""
        return replace(self, first=copy.deepcopy(self.first), max_length=max_length)

    def all_of(self, samples: Sequence[str]) -> dict[str, Any]:
        """Return all that the model's preprocessing gives: tensors, and what all texts share."""
        with quiet_huggingface():
            options = {"task": self.task} if self.task else {}
            return dict(self.first.preprocess(samples, prompt=self.prompt, **options))

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return tensors with a row for each text.

        Raises:
            BadSample: a sample is not a text, or has no tokens, or one that the model lacks.
        """
        found = self.all_of(texts(samples))
        inputs = _padded({name: x for name, x in found.items() if isinstance(x, Tensor)})
        if (mask := inputs.get("attention_mask")) is not None and not mask.any(1).all():
            msg = "a text without tokens"
            raise BadSample(msg)
        check_ids(inputs, self.vocabulary, self.tokenizer)
        return inputs


def _load(folder: Path, who: str) -> Any:
    library = require("sentence_transformers", extra="sentence-transformers")
    if any(folder.rglob("*.bin")):
        weight_files(folder, who, loader="sentence_transformers.SentenceTransformer")
    with quiet_huggingface(), loading_weights(who, "the model", folder), _no_weights_missing(who):
        return library.SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={
                "use_safetensors": True,
                "dtype": torch.float32,
                "attn_implementation": None,  # else the folder may choose code of the Hub
                "use_kernels": False,
            },
        )


@contextmanager
def _no_weights_missing(who: str) -> Generator[None]:
    """Within a block, insist that models of transformers find all weights but a pooler's.

    sentence-transformers asks not, and random weights look like a model.

    Raises:
        WeightsError: some are missing; names the first.
    """
    kind = require("transformers", extra="sentence-transformers").PreTrainedModel
    load = kind.__dict__["from_pretrained"]

    def checked(cls: Any, name: str, *args: Any, **options: Any) -> Any:
        if options.get("output_loading_info"):
            return load.__func__(cls, name, *args, **options)
        told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = load.__func__(cls, name, *args, **options | told)
        check_loaded(model, info, Path(name), who)
        ignored = never_saved(model)
        missing = sorted(
            key
            for key in info["missing_keys"]
            if not key.startswith("pooler.") and not key.endswith(ignored)
        )
        check_no_missing_weights(missing, Path(name), who)
        return model

    kind.from_pretrained = classmethod(checked)
    try:
        yield
    finally:
        kind.from_pretrained = load


def _prompt(model: Any, spec: SentenceTransformers, who: str) -> str | None:
    """Return the prompt that is asked for, else the model's own.

    Raises:
        SpecError: the model has none of that name.
    """
    known: dict[str, str] = model.prompts
    if spec.prompt is not None:
        return spec.prompt
    if spec.prompt_name is not None and spec.prompt_name not in known:
        names = ", ".join(known) or "none"
        msg = f"{who}: the model has no prompt {spec.prompt_name!r}; it has: {names}"
        raise SpecError(msg)
    of_task = [name for name in PROMPTS_OF_TASK.get(spec.task or "", ()) if name in known]
    name = spec.prompt_name or next(iter(of_task), model.default_prompt_name)
    return known.get(name)


@contextmanager
def _told(who: str) -> Generator[None]:
    """Within a block, tell in one line what a model says of texts that it does not take."""
    try:
        yield
    except (ContrastiveError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        hint = "; set task to query or document" if "route" in reason else ""
        msg = f"{who}: the model does not take a text: {reason}{hint}"
        raise SpecError(msg) from error


def without_weights(module: nn.Module) -> nn.Module:
    """Return a copy of a module that only preprocesses: small enough to be sent to workers."""
    spare: dict[int, Any] = {}
    for part in module.modules():
        if hasattr(part, "get_input_embeddings") and part is not module:  # a model of transformers
            spare[id(part)] = nn.Identity()
            spare[id(part)].config = part.config  # pyright: ignore[reportAttributeAccessIssue]
    for tensor in (*module.parameters(), *module.buffers()):
        empty = tensor.detach().to("meta")
        spare[id(tensor)] = (
            nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
        )
    return copy.deepcopy(module, spare)


def takes_length(module: nn.Module) -> bool:
    """Whether a module cuts texts at a length that can be set."""
    told = getattr(type(module), "max_seq_length", None)
    if isinstance(told, property):
        is_leaf = not hasattr(module, "sub_modules")
        return is_leaf and told.fset is not None and getattr(module, "tokenizer", None) is not None
    return hasattr(module, "max_seq_length")


def _padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each text a row of tokens, of which a static embedding makes one long row."""
    if "offsets" not in inputs:
        return inputs
    ids, offsets_B = inputs["input_ids"], inputs["offsets"]
    rows = list(ids.tensor_split(offsets_B[1:]))
    mask = [torch.ones_like(row) for row in rows]
    padded = (pad_sequence(several, batch_first=True) for several in (rows, mask))
    return dict(zip(("packed_ids", "attention_mask"), padded, strict=True))


def _packed(inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Undo ``_padded``."""
    if "packed_ids" not in inputs:
        return dict(inputs)
    mask_BL = inputs["attention_mask"].bool()
    ends_B = mask_BL.sum(1).cumsum(0)
    offsets_B = torch.cat([ends_B.new_zeros(1), ends_B[:-1]])
    return {"input_ids": inputs["packed_ids"][mask_BL], "offsets": offsets_B}
