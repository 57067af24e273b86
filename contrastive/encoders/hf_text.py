"""Text models of transformers."""

from __future__ import annotations

import sys
from dataclasses import replace
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.encoders.huggingface import load_half, pool, quiet_huggingface
from contrastive.encoders.text import tokenizing
from contrastive.encoders.token_encoder import TokenEncoder, some_words
from contrastive.encoders.trial import measure_out_dim
from contrastive.encoders.vocabulary import vocabulary_size
from contrastive.encoders.weights import folder_config, loading_weights
from contrastive.errors import SpecError, WeightsError
from contrastive.nn.memory import out_of_memory
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from contrastive.encoders import HFText
    from contrastive.encoders.module import EncoderModule

MARGIN = 16  # positions, of those that a config tells, that may be for no token
LONGEST = 512  # tokens by default: captions are short, and attention costs their square
LIMITS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")


class HFTextModule(TokenEncoder):
    """Tokens ``[B, L]`` to pooled hidden states ``[B, F]``."""

    def __init__(self, spec: HFText) -> None:
        """Load the model and its tokenizer."""
        super().__init__()
        self.who = f"hf-text {spec.name!r}"
        self.pooling = spec.pooling
        self.model, config, folder = load_half(spec, self.who)
        self.folder_config = folder_config(folder)
        tokenizer = load_tokenizer(folder, self.who)
        limit = min(positions(config), told_length(tokenizer))
        max_length = check_length(spec.max_length, limit, self.who) or min(limit, LONGEST)
        self.preprocess = tokenizing(tokenizer, max_length, spec.prompt, who=self.who)
        known = vocabulary_size(self, tokenizer, self.who)
        taken = longest_taken(self, max_length, config)
        check_length(spec.max_length, taken, self.who)
        self.preprocess = replace(self.preprocess, max_length=taken, vocabulary=known)
        self.out_dim = measure_out_dim(self, "a picture", self.who)
        self.reproducible = spec.pretrained

    def words(self) -> list[str]:
        """Return some words that the model knows."""
        preprocess: Any = self.preprocess
        return some_words(preprocess.tokenizer.get_vocab())

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of tokens."""
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
        msg = (
            f"{who}: {folder} has no tokenizer (tokenizer.json); save there the one that the model "
            f"was trained with: tokenizer.save_pretrained({str(folder)!r})"
        )
        raise WeightsError(msg)
    lower_if_asked(tokenizer, who)
    return tokenizer


def lower_if_asked(tokenizer: Any, who: str) -> None:
    """Let a tokenizer lower texts where its own config says so, and the class that is built not.

    The Hub's SigLIP 2 names the tokenizer of Gemma, which ignores ``do_lower_case``.
    """
    asked = tokenizer.init_kwargs.get("do_lower_case") and tokenizer.is_fast
    letters = " ".join(ascii_uppercase)
    if not asked or tokenizer(letters)["input_ids"] == tokenizer(letters.lower())["input_ids"]:
        return
    normalizers = require("tokenizers", extra="transformers").normalizers
    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
    backend.normalizer = normalizers.Sequence(steps)
    say(f"{who}: texts are put into lower case, as the tokenizer's config says")


def told_length(tokenizer: Any) -> int:
    """Return how many tokens a tokenizer says that a model takes; very many if it says none."""
    told = tokenizer.model_max_length
    is_count = isinstance(told, (int, float)) and told > 0
    return int(min(told, sys.maxsize)) if is_count else sys.maxsize


def positions(config: Any) -> int:
    """Return how many tokens a model has positions for; very many if they are relative."""
    told = (getattr(config, name, None) for name in LIMITS)
    return next((n for n in told if isinstance(n, int) and n > 0), sys.maxsize)


@torch.no_grad()
def longest_taken(module: EncoderModule, length: int, config: Any) -> int:
    """Return how many tokens a model takes, at most ``length``: where that is near, it is tried.

    RoBERTa and its kin number positions from behind the padding's: of 514, 512 are for tokens.
    """
    limit = positions(config)
    if length <= limit - MARGIN or not _has_rows(module, limit):
        return length
    try:
        inputs = module.preprocess(["a picture"])
        ids_BL = inputs["input_ids"]
    except Exception:  # models have errors of their own; ``measure_out_dim`` tells
        return length
    inputs["input_ids"] = ids_BL.clamp(min=int(ids_BL.max()))  # no padding, which is not counted

    def is_taken(tokens: int) -> bool:
        longer = {
            name: tensor.repeat(1, -(-tokens // tensor.shape[1]))[:, :tokens]
            for name, tensor in inputs.items()
        }
        try:
            module(**longer)
        except Exception as error:
            if out_of_memory(error):
                raise
            return False
        return True

    with eval_mode(module):
        shortest = max(1, length - MARGIN)
        return next((n for n in range(length, shortest, -1) if is_taken(n)), length)


def _has_rows(module: EncoderModule, number: int) -> bool:
    """Whether a table of a model may be that of positions: rotary ones take texts of any length."""
    return any(p.ndim == 2 and number <= len(p) <= number + MARGIN for p in module.parameters())


def check_length(asked: int | None, limit: int, who: str) -> int | None:
    """Return what was asked for, if the model can take it.

    Raises:
        SpecError: it cannot.
    """
    if asked and asked > limit:
        msg = f"{who}: max_length {asked} is more than the {limit} tokens that the model takes"
        raise SpecError(msg)
    return asked
