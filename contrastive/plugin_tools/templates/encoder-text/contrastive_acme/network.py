"""Texts to features.

Shapes: B texts, L trigrams, F features.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from contrastive.interface import EncoderModule, as_text, sample_list
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive_acme import AcmeEncoder

PADDING = 0  # bucket n is the index 1 + n


class AcmeEncoderModule(EncoderModule):
    """Trigrams to the mean of their vectors."""

    modality = "text"

    def __init__(self, config: AcmeEncoder) -> None:
        """Draw random vectors."""
        super().__init__()
        self.out_dim = config.width
        self.preprocess = Trigrams(config.buckets, config.max_length)
        self.vectors = nn.Embedding(1 + config.buckets, config.width, padding_idx=PADDING)

    def forward(self, trigrams: Tensor) -> Tensor:
        """Return features ``[B, F]`` of trigrams ``[B, L]``; padding does not count."""
        count_B1 = (trigrams != PADDING).sum(1, keepdim=True)
        return self.vectors(trigrams).sum(1) / count_B1


@dataclass(frozen=True)
class Trigrams:
    """Hashes trigrams. Picklable, as it runs in the workers that read samples."""

    buckets: int
    max_length: int

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"trigrams": [B, L]}``.

        Raises:
            BadSample: a sample is not a text.
        """
        rows = [torch.tensor(self._of(as_text(x))) for x in sample_list(samples, "text")]
        return {"trigrams": pad_sequence(rows, batch_first=True, padding_value=PADDING)}

    def _of(self, text: str) -> list[int]:
        padded = f" {text[: self.max_length].casefold()}  "  # an empty text has one trigram, too
        trigrams = (padded[at : at + 3].encode() for at in range(len(padded) - 2))
        # CRC-32, as hash() of a text differs from process to process
        return [1 + zlib.crc32(trigram) % self.buckets for trigram in trigrams]
