"""How many texts are longer than what a model reads of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.model.model import ContrastiveModel

MOST = 2000
"""Texts that are looked at, evenly spaced."""


def truncated_share(model: ContrastiveModel, texts: Sequence[str]) -> float | None:
    """Return the share of texts whose end a model never reads; None without a text tower.

    Such a text gives the encoder the same inputs without its last word, and written twice. What the
    encoder reads is asked of its ``preprocess``, so that this holds for any encoder.

    Args:
        model: the model.
        texts: of which 2,000 at most are looked at, evenly spaced.

    Example:
        >>> truncated_share(model, ["a red square"])
        0.0
    """
    if "text" not in model.towers or not texts:
        return None
    looked_at = texts[:: -(-len(texts) // MOST)]
    words = [several for text in looked_at if len(several := text.split()) > 1]
    if not words:  # of one word, nothing can be left out
        return 0.0
    preprocess = model.tower("text").encoder.preprocess
    forms = (words, [several[:-1] for several in words], [several * 2 for several in words])
    inputs = preprocess([" ".join(several) for form in forms for several in form])
    whole, shorter, twice = (_part(inputs, i, len(words)) for i in range(3))
    equal_N = torch.stack([_equal(whole, shorter), _equal(whole, twice)]).all(0)
    return float(equal_N.sum()) / len(looked_at)


def _part(inputs: Any, i: int, rows: int) -> list[Tensor]:
    tensors = [x for x in inputs.values() if isinstance(x, Tensor)]
    return [x[i * rows : (i + 1) * rows] for x in tensors]


def _equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return which rows of all inputs are equal."""
    return torch.stack([(a == b).flatten(1).all(1) for a, b in zip(some, others, strict=True)]).all(
        0
    )
