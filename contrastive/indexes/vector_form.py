"""Embeddings in fewer bytes: their first numbers alone, as int8, or only the signs.

Shapes: Q samples, D wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.config.arguments import count
from contrastive.errors import SpecError

INT8_MOST = 127
BITS = 8
Quantize = Literal["int8", "binary"]


@dataclass(frozen=True)
class Form:
    """How embeddings are stored."""

    dim: int | None = None
    """Only the first numbers of each, normalised again; all if None."""
    quantize: Quantize | None = None
    """``int8``, with a scale for each row, or ``binary``: the signs, eight in a byte."""

    def stored(self, embeddings_QD: Tensor) -> dict[str, Tensor]:
        """Return the tensors of a shard."""
        cut_QD = embeddings_QD[:, : self.dim]
        if cut_QD.shape != embeddings_QD.shape:  # else all bits stay as they are
            cut_QD = normalize(cut_QD, dim=1)
        if self.quantize == "int8":
            scale_Q = cut_QD.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / INT8_MOST
            return {
                "embeddings": (cut_QD / scale_Q[:, None]).round().to(torch.int8),
                "scale": scale_Q,
            }
        if self.quantize == "binary":
            powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
            bits = (cut_QD > 0).view(len(cut_QD), -1, BITS).to(torch.uint8)
            return {"embeddings": (bits * powers).sum(2, dtype=torch.uint8)}
        return {"embeddings": cut_QD}

    def restored(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the embeddings ``[Q, D]`` that a shard stands for, fp32, L2-normalised."""
        stored = tensors["embeddings"]
        if self.quantize == "int8":
            return normalize(stored.float() * tensors["scale"][:, None], dim=1)
        if self.quantize == "binary":
            shifts = torch.arange(BITS - 1, -1, -1)
            bits = (stored.long()[:, :, None] >> shifts) & 1
            return normalize(bits.flatten(1).float() * 2 - 1, dim=1)
        return stored


def checked_form(width: int, dim: Any, quantize: Any) -> Form:
    """Return a form for embeddings of a width.

    Raises:
        SpecError: it does not fit them, or there is no such one.
    """
    dim = width if dim is None else count("dim", dim)
    if dim > width:
        msg = f"dim: {dim} is more than the {width} numbers of an embedding; lower it"
        raise SpecError(msg)
    if quantize is not None and quantize not in get_args(Quantize):
        msg = f"quantize is {quantize!r}; give {' or '.join(map(repr, get_args(Quantize)))}"
        raise SpecError(msg)
    if quantize == "binary" and dim % BITS:
        msg = f"quantize: binary stores eight signs in a byte; give dim={dim - dim % BITS or BITS}"
        raise SpecError(msg)
    return Form(dim, quantize)
