"""A bag of words, from scratch.

Shapes: B texts, L words, F features.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from contrastive.encoders.module import EncoderModule
from contrastive.encoders.pooling import masked_mean
from contrastive.encoders.text import texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.encoders import CBOW

PADDING = 0  # bucket n is the token 1 + n


class CBOWModule(EncoderModule):
    """Words to the mean of their vectors; a text without words gives zero."""

    modality = "text"

    def __init__(self, spec: CBOW) -> None:
        """Draw random word vectors."""
        super().__init__()
        self.out_dim = spec.width
        self.preprocess = HashWords(spec.buckets, spec.max_length)
        self.vectors = nn.Embedding(1 + spec.buckets, spec.width, padding_idx=PADDING)

    def forward(self, words: Tensor) -> Tensor:
        """Return features ``[B, F]`` of words ``[B, L]``."""
        return masked_mean(self.vectors(words), words != PADDING)


@dataclass(frozen=True)
class HashWords:
    """Words, in lower case, to buckets; the same in every process (CRC-32, not ``hash``)."""

    buckets: int
    max_length: int
    """Words; the rest of a text is cut off."""

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"words": [B, L]}``.

        Raises:
            BadSample: a sample is not a text.
        """
        rows = [torch.tensor(self._buckets_of(text)) for text in texts(samples)]
        return {"words": pad_sequence(rows, batch_first=True, padding_value=PADDING).long()}

    def _buckets_of(self, text: str) -> list[int]:
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
        return [1 + zlib.crc32(word.encode()) % self.buckets for word in words[: self.max_length]]
