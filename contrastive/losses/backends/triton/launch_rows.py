"""How the kernels over single rows are called, and what else is done row by row.

Shapes: N rows, D wide.
"""

# the types of Triton know arguments of kernels as they are in a kernel only
# pyright: reportArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from triton.runtime import JITFunction

from contrastive.losses.backends.triton import row_kernels

if TYPE_CHECKING:
    from torch import Tensor

INTERPRETED = not isinstance(cast("Any", row_kernels.fold), JITFunction)
LARGEST = 108  # exponent of the largest term; 2**18 such terms add up to less than 2**127
LEAST = 2.0**-109  # a sum of so much a term loses less than 2**-17 to terms below 2**-126
FUSION = {"enable_fp_fusion": True}  # x * y + z rounds once; not the default everywhere
FOLD = 64, 32  # rows and tiles that are added up at once


def shift(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return what is subtracted from all exponents of 2 so that no sum of them overflows."""
    longest = _longest(a) * _longest(b)
    room = min(LARGEST, 126 - math.ceil(math.log2(max(len(a), len(b)))))
    return (longest * scale * math.log2(math.e) - room).clamp_(min=0)


def fold(parts: Tensor, t: int, out: Tensor) -> None:
    """Call ``row_kernels.fold`` for t tiles."""
    row_kernels.fold[(-(-len(out) // FOLD[0]),)](
        parts=parts, out=out, t=t, n=len(out), R=FOLD[0], T=FOLD[1], **FUSION
    )


def fold_logs(
    parts: Tensor,
    t: int,
    out: Tensor,
    *,
    shift: Tensor,
    exact: Tensor,
    terms: int,
    fallback: bool,
    natural: bool = True,
) -> None:
    """Call ``row_kernels.fold_logs`` for t tiles and sums of so many ``terms``."""
    row_kernels.fold_logs[(-(-len(out) // FOLD[0]),)](
        parts=parts,
        out=out,
        shift=shift,
        exact=exact,
        least=LEAST * terms,
        t=t,
        n=len(out),
        FALLBACK=fallback,
        NATURAL=natural,
        R=FOLD[0],
        T=FOLD[1],
        **FUSION,
    )


def normalize_rows(raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Call ``row_kernels.normalize_rows``."""
    n, width = raw.shape
    out = torch.empty_like(raw, dtype=dtype)
    length_N = torch.empty(n, dtype=torch.float32, device=raw.device)
    row_kernels.normalize_rows[(n,)](
        raw=raw, out=out, length=length_N, D=width, W=filled(width), **FUSION
    )
    return out, length_N


def finalize_gradient(
    x: Tensor, grad: Tensor, factor: Tensor, length: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Call ``row_kernels.finalize_gradient``; return the gradient and the rows' dot products."""
    n, width = x.shape
    out = torch.empty_like(x, dtype=dtype)
    dot_N = torch.empty(n, dtype=torch.float32, device=x.device)
    row_kernels.finalize_gradient[(n,)](
        x=x,
        grad=grad,
        factor=factor,
        length=length,
        out=out,
        dots=dot_N,
        D=width,
        W=filled(width),
        RAW=length is None,
        **FUSION,
    )
    return out, dot_N


def filled(width: int) -> int:
    """Return the next power of 2."""
    return 1 << (width - 1).bit_length()


def _longest(x: Tensor) -> Tensor:
    return cast("Tensor", torch.linalg.vector_norm(x, dim=1, dtype=torch.float32)).amax()
