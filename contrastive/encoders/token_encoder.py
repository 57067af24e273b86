"""Text encoders over tokens, which run texts of a length together where padding would count.

Shapes: B texts, L tokens, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.encoders.module import EncoderModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WORDS = 6  # of a model's own, in a text to try it


class TokenEncoder(EncoderModule):
    """Tokens ``[B, L]``, padded on the right, to features ``[B, F]``."""

    modality = "text"
    by_length: bool = False
    """The model heeds padding (in convolutions, transforms, ...), so it is to see none."""

    @abstractmethod
    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of tokens, padded or not."""

    def words(self) -> list[str]:
        """Return some words that the model knows."""
        return []

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of what ``preprocess`` gives."""
        return without_padding(self.encode, inputs) if self.by_length else self.encode(**inputs)


def some_words(vocabulary: Iterable[str]) -> list[str]:
    """Return a few words of a tokenizer, without the marks of where they begin and end.

    Example:
        >>> some_words(["[PAD]", "##ing", "\u2581hund", "7"])
        ['ing', 'hund']
    """
    pieces = (piece.removesuffix("</w>").strip("#\u2581\u0120") for piece in vocabulary)
    return [*islice((piece for piece in pieces if piece.isalpha()), WORDS)]


def without_padding(encode: Callable[..., Tensor], inputs: dict[str, Any]) -> Tensor:
    """Return the features of texts, of which those of a length are encoded together."""
    mask_BL: Tensor = inputs["attention_mask"]
    length_B = mask_BL.sum(1)
    rows: list[Tensor] = []
    features: list[Tensor] = []
    for length in cast("list[int]", length_B.unique().tolist()):
        rows.append((length_B == length).nonzero().flatten())
        part = {
            name: x[rows[-1], :length] if x.shape[1:2] == mask_BL.shape[1:] else x[rows[-1]]
            for name, x in inputs.items()
        }
        features.append(encode(**part))
    return torch.cat(features)[torch.cat(rows).argsort()]
