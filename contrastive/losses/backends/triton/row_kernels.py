"""The kernels over single rows: adding up what tiles have left, unit rows, the last of a gradient.

Shapes: N rows, D wide, T tiles; R rows at a time, W the width filled up to a power of 2.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917, SIM102 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.gradient_kernels import LN2
from contrastive.losses.backends.triton.sum_kernels import logsumexp2


@triton.jit(do_not_specialize=["t", "n"], do_not_specialize_on_alignment=["out"])
def fold(
    parts,
    out,
    t,
    n,
    R: tl.constexpr,
    T: tl.constexpr,
):
    """Write the sum of ``parts`` ``[T, N]`` over the tiles."""
    rows_R = tl.program_id(0) * R + tl.arange(0, R)
    total_R = tl.zeros((R,), tl.float32)
    start = 0
    while start < t:
        total_R += tl.sum(part(parts, start, rows_R, t, n, 0.0, T), 0)
        start += T
    tl.store(out + rows_R, total_R, mask=rows_R < n)


@triton.jit(do_not_specialize=["t", "n"], do_not_specialize_on_alignment=["out"])
def fold_logs(
    parts,
    out,
    shift,
    exact,
    least,
    t,
    n,
    FALLBACK: tl.constexpr,
    NATURAL: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
):
    """Write the natural logarithm of the sum of ``parts`` ``[T, N]``, which ``shift`` has shrunk.

    Sets ``exact`` where a sum is less than ``least``. As ``FALLBACK``, the parts are logarithms to
    base 2, and nothing is written unless ``exact`` is set. Unless ``NATURAL``, so is the result.
    """
    if FALLBACK:
        if tl.load(exact) == 0:
            return
    rows_R = tl.program_id(0) * R + tl.arange(0, R)
    start = 0
    if FALLBACK:
        log_R = tl.full((R,), float("-inf"), tl.float32)
        while start < t:
            part_TR = part(parts, start, rows_R, t, n, float("-inf"), T)
            both_2R = tl.join(log_R, logsumexp2(part_TR, 0))
            log_R = logsumexp2(both_2R, 1)
            start += T
    else:
        total_R = tl.zeros((R,), tl.float32)
        while start < t:
            total_R += tl.sum(part(parts, start, rows_R, t, n, 0.0, T), 0)
            start += T
        kept_R = (total_R >= least) | (rows_R >= n)
        lost = tl.max(tl.where(kept_R, 0, 1), 0)
        tl.store(exact, 1, mask=lost > 0)  # all that write it write the same
        empty_R = total_R == 0
        log_R = tl.log2(tl.where(empty_R, 1.0, total_R)) + tl.load(shift)
        log_R = tl.where(empty_R, float("-inf"), log_R)
    if NATURAL:
        log_R = log_R * LN2
    tl.store(out + rows_R, log_R, mask=rows_R < n)


@triton.jit
def part(parts, start, rows_R, t, n, other, T: tl.constexpr):
    """Return some of the tiles' sums."""
    tiles_T = start + tl.arange(0, T)
    there_TR = (tiles_T < t)[:, None] & (rows_R < n)[None, :]
    return tl.load(parts + tiles_T.to(tl.int64)[:, None] * n + rows_R[None, :], there_TR, other)


@triton.jit
def normalize_rows(raw, out, length, D: tl.constexpr, W: tl.constexpr):
    """Write a row with length 1, and its length."""
    row = tl.program_id(0).to(tl.int64)
    k_W = tl.arange(0, W)
    x_W = tl.load(raw + row * D + k_W, mask=k_W < D, other=0.0).to(tl.float32)
    size = tl.maximum(tl.sqrt(tl.sum(x_W * x_W, 0)), 1e-12)
    tl.store(out + row * D + k_W, (x_W / size).to(out.dtype.element_ty), mask=k_W < D)
    tl.store(length + row, size)


@triton.jit(do_not_specialize=["offset"], do_not_specialize_on_alignment=["x"])
def matched_logits(a, b, scale, x, offset, D: tl.constexpr, W: tl.constexpr):
    """Write the logit of a matched pair."""
    row = tl.program_id(0).to(tl.int64)
    k_W = tl.arange(0, W)
    a_W = tl.load(a + row * D + k_W, mask=k_W < D, other=0.0).to(tl.float32)
    b_W = tl.load(b + (row + offset) * D + k_W, mask=k_W < D, other=0.0).to(tl.float32)
    tl.store(x + row, tl.sum(a_W * b_W, 0) * tl.load(scale))


@triton.jit
def finalize_gradient(
    x,
    grad,
    factor,
    length,
    out,
    dots,
    D: tl.constexpr,
    W: tl.constexpr,
    RAW: tl.constexpr,
):
    """Write a row's gradient times ``factor``, and its dot product with the row.

    Unless ``RAW``, the gradient is that of the row before it was given length 1.
    """
    row = tl.program_id(0).to(tl.int64)
    k_W = tl.arange(0, W)
    x_W = tl.load(x + row * D + k_W, mask=k_W < D, other=0.0).to(tl.float32)
    g_W = tl.load(grad + row * D + k_W, mask=k_W < D, other=0.0) * tl.load(factor)
    dot = tl.sum(x_W * g_W, 0)
    if not RAW:
        g_W = (g_W - x_W * dot) / tl.load(length + row)
    tl.store(out + row * D + k_W, g_W.to(out.dtype.element_ty), mask=k_W < D)
    tl.store(dots + row, dot)
