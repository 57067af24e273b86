"""Text models of transformers."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.config.extras import require
from contrastive.encoders.huggingface import load_half, measure_out_dim, pool, quiet_huggingface
from contrastive.encoders.module import EncoderModule
from contrastive.encoders.text import tokenizing
from contrastive.encoders.weights import loading_weights
from contrastive.errors import SpecError, WeightsError
from contrastive.nn.memory import out_of_memory

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from contrastive.encoders import HFText
    from contrastive.encoders.text import Tokenize

MARGIN = 16  # positions, of those that a config tells, that may be for no token
LONGEST = 512  # tokens by default: captions are short, and attention costs their square


class HFTextModule(EncoderModule):
    """Tokens ``[B, L]`` to pooled hidden states ``[B, F]``."""

    modality = "text"

    def __init__(self, spec: HFText) -> None:
        """Load the model and its tokenizer."""
        super().__init__()
        self.who = f"hf-text {spec.name!r}"
        self.pooling = spec.pooling
        self.model, folder = load_half(spec, self.who)
        self.model.config.use_cache = False  # nothing is generated, and layers may run twice
        tokenizer = load_tokenizer(folder, self.who)
        limit = min(positions(self.model.config), int(tokenizer.model_max_length))
        max_length = check_length(spec.max_length, limit, self.who) or min(limit, LONGEST)
        self.preprocess = tokenizing(tokenizer, max_length, who=self.who)
        self.out_dim = measure_out_dim(self, "a picture", self.who)
        shorten(self, self.model.config, spec.max_length, self.who)
        self.reproducible = spec.pretrained

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of what the tokenizer gives."""
        return pool(self.model(**inputs), inputs["attention_mask"], self.pooling, self.who)


def load_tokenizer(folder: Path, who: str) -> Any:
    """Return the tokenizer of a model's folder.

    Raises:
        WeightsError: it is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    with quiet_huggingface(), loading_weights(who, "the tokenizer", folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of no files
        msg = f"{who}: {folder} has no tokenizer (tokenizer.json)"
        raise WeightsError(msg)
    return tokenizer


def positions(config: Any) -> int:
    """Return how many tokens a model has positions for; very many if they are relative."""
    return getattr(config, "max_position_embeddings", None) or sys.maxsize


def shorten(module: EncoderModule, config: Any, asked: int | None, who: str) -> None:
    """Let a module's tokenizer give no more tokens than its model takes.

    Raises:
        SpecError: more were asked for.
    """
    tokenize = cast("Tokenize", module.preprocess)
    taken = _longest_taken(module, tokenize.max_length, config)
    if taken < tokenize.max_length:
        check_length(asked, taken, who)
        module.preprocess = replace(tokenize, max_length=taken)


@torch.no_grad()
def _longest_taken(module: EncoderModule, length: int, config: Any) -> int:
    """Return how many tokens a model takes, at most ``length``: where that is near, it is tried.

    RoBERTa and its kin number positions from behind the padding's: of 514, 512 are for tokens.
    """
    if length <= positions(config) - MARGIN:
        return length
    module.eval()
    inputs = module.preprocess(["a picture"])
    padding = getattr(config, "pad_token_id", None)
    ids_BL = inputs["input_ids"]
    if padding is not None:  # which RoBERTa does not count
        inputs["input_ids"] = ids_BL.where(ids_BL != padding, ids_BL.max())

    def is_taken(tokens: int) -> bool:
        longer = {
            name: tensor.repeat(1, -(-tokens // tensor.shape[1]))[:, :tokens]
            for name, tensor in inputs.items()
        }
        try:
            module(**longer)
        except (IndexError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            return False
        return True

    shortest = max(1, length - MARGIN)
    taken = next((n for n in range(length, shortest, -1) if is_taken(n)), length)
    module.train()
    return taken


def check_length(asked: int | None, limit: int, who: str) -> int | None:
    """Return what was asked for, if the model can take it.

    Raises:
        SpecError: it cannot.
    """
    if asked and asked > limit:
        msg = f"{who}: max_length {asked} is more than the {limit} tokens that the model takes"
        raise SpecError(msg)
    return asked
