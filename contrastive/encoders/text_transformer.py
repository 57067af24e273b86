"""A transformer over bytes, from scratch.

Shapes: B texts, L tokens, F features.
"""

from __future__ import annotations

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

    from contrastive.encoders import TextTransformer

PADDING, START, BYTES = 0, 1, 2  # tokens; a byte b is the token BYTES + b


class TextTransformerModule(EncoderModule):
    """Bytes to the mean of pre-norm transformer states."""

    modality = "text"

    def __init__(self, spec: TextTransformer) -> None:
        """Draw random weights."""
        super().__init__()
        self.out_dim = spec.width
        self.preprocess = TokenizeBytes(spec.max_length)
        self.tokens = nn.Embedding(BYTES + 256, spec.width)
        self.places = nn.Embedding(1 + spec.max_length, spec.width)
        for table in (self.tokens, self.places):
            nn.init.normal_(table.weight, std=0.02)  # as BERT and GPT
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                spec.width,
                spec.heads,
                dim_feedforward=4 * spec.width,
                dropout=spec.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features ``[B, F]`` of tokens ``[B, L]``."""
        real = tokens != PADDING
        states_BLF = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            states_BLF = block(states_BLF, src_key_padding_mask=~real)
        return masked_mean(self.norm(states_BLF), real)


@dataclass(frozen=True)
class TokenizeBytes:
    """UTF-8 bytes after a start token, so that an empty text has a token too."""

    max_length: int
    """Bytes; the rest of a text is cut off."""

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"tokens": [B, L]}``.

        Raises:
            BadSample: a sample is not a text.
        """
        cut = [text.encode()[: self.max_length] for text in texts(samples)]
        rows = [torch.tensor([START, *(BYTES + byte for byte in text)]) for text in cut]
        return {"tokens": pad_sequence(rows, batch_first=True, padding_value=PADDING)}
