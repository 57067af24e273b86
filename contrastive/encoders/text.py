"""Texts to tokens.

Shapes: B texts, L tokens.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from contrastive.data.sample_lists import sample_list
from contrastive.encoders.vocabulary import check_ids
from contrastive.errors import BadSample, SpecError, a_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Padding = Literal["longest", "max_length"]


@dataclass(frozen=True)
class Tokenize:
    """A tokenizer of transformers as the ``preprocess`` of a text encoder.

    Pads to the longest text on the right, whatever the tokenizer prefers, so that neither positions
    nor causal attention depend on the other texts of the batch; or all texts to ``max_length``, on
    the tokenizer's own side.
    """

    tokenizer: Any = field(repr=False)
    max_length: int
    """Tokens; the rest of a text is cut off."""
    prompt: str
    """Put before each text."""
    digest: str
    """SHA-256 of the tokenizer's content, for the ``repr``."""
    padding: Padding = "longest"
    """Up to where short texts are padded."""
    vocabulary: int = field(default=sys.maxsize, repr=False)
    """Tokens that the model has embeddings for."""

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"input_ids": [B, L], "attention_mask": [B, L], ...}``.

        Raises:
            BadSample: a sample is not a text, has no tokens, or one that the model lacks.
        """
        tokens = self.tokenizer(
            [self.prompt + text for text in texts(samples)],
            padding=self.padding,
            padding_side="right" if self.padding == "longest" else None,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        if not tokens["attention_mask"].any(1).all():
            msg = "a text without tokens"
            raise BadSample(msg)
        check_ids(tokens, self.vocabulary, self.tokenizer)
        return dict(tokens)


def texts(samples: Any) -> list[str]:
    """Return a batch of texts, in any form, as every tokenizer takes them.

    Raises:
        BadSample: there is none, or one is not a ``str``.
    """
    return [as_text(sample) for sample in sample_list(samples, "text", least=1)]


def as_text(sample: object) -> str:
    """Return a text that every tokenizer takes: lone surrogates become question marks.

    Raises:
        BadSample: it is not a ``str``.

    Example:
        >>> as_text("a red square")
        'a red square'
    """
    if not isinstance(sample, str):
        msg = f"{a_type(sample)} is no text; give a str"
        raise BadSample(msg)
    return sample.encode(errors="replace").decode()


def tokenizing(
    tokenizer: Any, max_length: int, prompt: str = "", *, who: str, padding: Padding = "longest"
) -> Tokenize:
    """Make a ``Tokenize`` of a loaded tokenizer, giving it a padding token if it has none.

    Raises:
        SpecError: ``max_length`` is so small that the tokenizer would not cut at all.
    """
    if max_length <= (special := tokenizer.num_special_tokens_to_add(pair=False)):
        msg = f"{who}: max_length {max_length} has no room beside {special} special tokens"
        raise SpecError(msg)
    if tokenizer.pad_token is None:
        first = tokenizer.convert_ids_to_tokens(0)
        tokenizer.pad_token = (
            tokenizer.eos_token or tokenizer.unk_token or first
        )  # masked: any does
    return Tokenize(tokenizer, max_length, prompt, tokenizer_hash(tokenizer), padding)


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash everything that a tokenizer does to a text but how far it pads and truncates.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
        >>> tokenizer_hash(tokenizer) == tokenizer_hash(tokenizer)
        True
    """
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content |= {"padding": None, "truncation": None}  # left over from its last call
    else:
        content = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
        content += [getattr(tokenizer, "do_lower_case", None)]
        if pieces := getattr(tokenizer, "sp_model", None):  # how likely each piece is decides, too
            content += [hashlib.sha256(pieces.serialized_model_proto()).hexdigest()]
    sides = [tokenizer.padding_side, tokenizer.truncation_side]
    described = [content, tokenizer.special_tokens_map, sides]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
