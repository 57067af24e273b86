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

from contrastive.losses.backends.triton import line_kernels, row_kernels

if TYPE_CHECKING:
    from torch import Tensor

INTERPRETED = not isinstance(cast("Any", line_kernels.fold), JITFunction)
LARGEST = 108  # exponent of the largest term; 2**18 such terms add up to less than 2**127
LEAST = 2.0**-109  # a sum of so much a term loses less than 2**-17 to terms below 2**-126
FUSION = {"enable_fp_fusion": True}  # x * y + z rounds once; not the default everywhere
FOLD = 64, 32  # rows and tiles that are added up at once


LONG = 4096  # numbers that one program reads at once
FACTOR = 5  # where ``line_kernels.scalars`` writes the factor of the gradients


def shift(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return what is subtracted from all exponents of 2 so that no sum of them overflows."""
    longest = _longest(a) * _longest(b)
    return (longest * scale * math.log2(math.e) - _room(len(a), len(b))).clamp_(min=0)


def prepare(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    orders: tuple[Tensor, Tensor] | None,
    *,
    kind: str,
    dtype: torch.dtype,
    normalize: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Call ``row_kernels.prepare``.

    Returns:
        The rows of both sides in ``dtype``, empty if they are to be taken as they are; the lengths
        of the raw rows if they are normalised, else empty; the matched logits of rows and of
        columns; ``[2, P]`` lengths.
    """
    (n, width), m = a.shape, len(b)
    write = writes(a, b, dtype, kind, normalize=normalize)
    rows = tuple(x.new_empty(x.shape if write else (0, 0), dtype=dtype) for x in (a, b))
    lengths = tuple(x.new_empty(len(x) if normalize else 0, dtype=torch.float32) for x in (a, b))
    at_once = rows_at_once(width)
    programs = -(-max(n, m) // at_once)
    x = a.new_empty({"diagonal": max(n, m), "masked": n + m}.get(kind, 0), dtype=torch.float32)
    logits = (x[:n], x[:m]) if kind == "diagonal" else (x[:n], x[n:])
    longest = a.new_empty(2, programs, dtype=torch.float32)
    row_kernels.prepare[(programs,)](
        a=a,
        b=b,
        a_order=None if orders is None else orders[0],
        b_order=None if orders is None else orders[1],
        a_rows=rows[0] if write else None,
        b_rows=rows[1] if write else None,
        a_length=lengths[0] if normalize else None,
        b_length=lengths[1] if normalize else None,
        x_rows=None if kind == "groups" else x,
        x_columns=logits[1] if kind == "masked" else None,
        longest=longest,
        scale=scale,
        n=n,
        m=m,
        D=width,
        W=filled(width),
        R=at_once,
        KIND=kind,
        NORMALIZE=normalize,
        WRITE=write,
        **FUSION,
    )
    return (rows[0], rows[1]), (lengths[0], lengths[1]), logits, longest


def writes(a: Tensor, b: Tensor, dtype: torch.dtype, kind: str, *, normalize: bool) -> bool:
    """Return whether ``prepare`` changes any rows."""
    return normalize or kind != "diagonal" or a.dtype != dtype or b.dtype != dtype


def scalars(
    longest: Tensor, scale: Tensor, n: int, m: int, counts: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Call ``line_kernels.scalars``; return what it writes, the shift first, and ``exact``."""
    out = torch.empty(6, dtype=torch.float32, device=scale.device)
    exact = torch.empty((), dtype=torch.uint8, device=scale.device)
    line_kernels.scalars[(1,)](
        longest=longest,
        scale=scale,
        row_count=None if counts is None else counts[0],
        column_count=None if counts is None else counts[1],
        out=out,
        exact=exact,
        p=longest.shape[1],
        n=n,
        m=m,
        room=_room(n, m),
        COUNTED=counts is not None,
        B=LONG,
        **FUSION,
    )
    return out, exact


def fold(
    rows: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    columns: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None,
    tiles: tuple[int, int],
    *,
    shift: Tensor,
    exact: Tensor,
    terms: tuple[int, int],
    first: bool,
    last: bool,
) -> None:
    """Call ``line_kernels.fold`` for a block of rows.

    Args:
        rows: the sums of the tiles, where logarithms go; in groups, likewise for positives.
        columns: likewise, if columns are summed.
        tiles: how many are side by side, and on top of each other.
        shift: see ``line_kernels.fold``.
        exact: likewise.
        terms: how many a sum of a row has, and one of a column.
        first: whether it is the first block.
        last: whether it is the last.
    """
    lines = len(rows[1]), 0 if columns is None else len(columns[1])
    grid = sum(-(-x // FOLD[0]) for x in lines)
    column_parts, column_log, *column_positive = columns or (None, None, None, None)
    line_kernels.fold[(grid,)](
        row_parts=rows[0],
        column_parts=column_parts,
        row_positive_parts=rows[2],
        column_positive_parts=column_positive[0],
        row_log=rows[1],
        column_log=column_log,
        row_positive=rows[3],
        column_positive=column_positive[1],
        shift=shift,
        exact=exact,
        across=tiles[0],
        down=tiles[1],
        n=lines[0],
        m=lines[1],
        before=0 if first else lines[1],
        is_last=int(last),
        least_row=LEAST * terms[0],
        least_column=LEAST * terms[1],
        POSITIVES=rows[2] is not None,
        R=FOLD[0],
        T=FOLD[1],
        **FUSION,
    )


def stats(
    logs: tuple[Tensor, Tensor],
    positive: tuple[Tensor, Tensor],
    counts: tuple[Tensor, Tensor] | None,
    scalars: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call ``line_kernels.stats``; return the loss, and the sides ``[3, N]`` and ``[3, M]``."""
    n, m = (len(x) for x in logs)
    row_side, column_side = (x.new_empty(3, len(x)) for x in logs)
    grid = sum(-(-x // FOLD[0]) for x in (n, m))
    loss = scalars.new_empty(grid)
    line_kernels.stats[(grid,)](
        row_log=logs[0],
        column_log=logs[1],
        row_positive=positive[0],
        column_positive=positive[1],
        row_count=None if counts is None else counts[0],
        column_count=None if counts is None else counts[1],
        scalars=scalars,
        row_side=row_side,
        column_side=column_side,
        loss=loss,
        n=n,
        m=m,
        COUNTED=counts is not None,
        R=FOLD[0],
        **FUSION,
    )
    return loss.sum(), row_side, column_side


def normalize_rows(raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Call ``row_kernels.normalize_rows``."""
    n, width = raw.shape
    out = torch.empty_like(raw, dtype=dtype)
    length_N = torch.empty(n, dtype=torch.float32, device=raw.device)
    at_once = rows_at_once(width)
    row_kernels.normalize_rows[(-(-n // at_once),)](
        raw=raw, out=out, length=length_N, n=n, D=width, W=filled(width), R=at_once, **FUSION
    )
    return out, length_N


def matched_logits(a: Tensor, b: Tensor, scale: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Call ``row_kernels.matched_logits``; return those of rows and of columns, 0 without match."""
    n, m = len(a), len(b)
    row, column = (torch.zeros(x, dtype=torch.float32, device=a.device) for x in (n, m))
    first = max(0, -offset)
    count = max(first, min(n, m - offset)) - first
    if count:
        width = a.shape[1]
        x_K = row[first : first + count]
        row_kernels.matched_logits[(count,)](
            a=a[first:],
            b=b,
            scale=scale,
            x=x_K,
            offset=first + offset,
            D=width,
            W=filled(width),
            **FUSION,
        )
        column[first + offset : first + offset + count] = x_K
    return row, column


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


def finalize_gradients(
    rows: tuple[Tensor, Tensor],
    grads: tuple[Tensor, Tensor],
    lengths: tuple[Tensor, Tensor] | None,
    orders: tuple[Tensor, Tensor] | None,
    dtypes: tuple[torch.dtype, torch.dtype],
    *,
    scale: Tensor,
    scalars: Tensor,
    outer: Tensor,
    lift: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call ``row_kernels.finalize_gradients``; return those of a, of b and of the log scale."""
    (n, width), m = rows[0].shape, len(rows[1])
    outs = [torch.empty_like(x, dtype=dtype) for x, dtype in zip(rows, dtypes, strict=True)]
    dot_N = scalars.new_empty(n)
    row_kernels.finalize_gradients[(n + m,)](
        a=rows[0],
        b=rows[1],
        a_grad=grads[0],
        b_grad=grads[1],
        factor=scalars[FACTOR:],
        outer=outer,
        scale=scale,
        a_length=None if lengths is None else lengths[0],
        b_length=None if lengths is None else lengths[1],
        a_order=None if orders is None else orders[0],
        b_order=None if orders is None else orders[1],
        a_out=outs[0],
        b_out=outs[1],
        dots=dot_N,
        n=n,
        D=width,
        W=filled(width),
        RAW=lengths is None,
        ORDERED=orders is not None,
        LIFT=lift,
        **FUSION,
    )
    return outs[0], outs[1], dot_N.sum()


def filled(width: int) -> int:
    """Return the next power of 2."""
    return 1 << (width - 1).bit_length()


def _longest(x: Tensor) -> Tensor:
    return cast("Tensor", torch.linalg.vector_norm(x, dim=1, dtype=torch.float32)).amax()


def _room(n: int, m: int) -> int:
    """Return the largest exponent of which n, or m, terms do not overflow."""
    return min(LARGEST, 126 - math.ceil(math.log2(max(n, m))))


def rows_at_once(width: int) -> int:
    """Return how many rows a program of few numbers takes."""
    return max(1, min(16, 2048 // filled(width)))
