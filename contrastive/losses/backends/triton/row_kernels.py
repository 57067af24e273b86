"""The kernels over single rows: as they are multiplied, matched, and the last of their gradient.

Those of InfoNCE take both sides at once, since each launch costs its host more than the kernel.

Shapes: N rows of a, M rows of b, D wide, P programs; R rows at a time, W the width filled up to a
power of 2.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n", "m"], do_not_specialize_on_alignment=["x_columns"])
def prepare(
    a,
    b,
    a_order,
    b_order,
    a_rows,
    b_rows,
    a_length,
    b_length,
    x_rows,
    x_columns,
    longest,
    scale,
    n,
    m,
    D: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    KIND: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WRITE: tl.constexpr,
):
    """Write the rows of both sides as they are multiplied, and the logits of the matched pairs.

    With ids, rows are written in their order. They are written only if ``WRITE``. The logit of a
    row or column without a match is 0; in groups there are none. ``longest`` ``[2, P]`` gets the
    greatest length of a row that a program has met on either side.
    """
    program = tl.program_id(0)
    at_R = program * R + tl.arange(0, R)
    a_from_R = at_R
    b_from_R = at_R
    if KIND != "diagonal":
        a_from_R = tl.load(a_order + at_R, mask=at_R < n, other=-1)
        b_from_R = tl.load(b_order + at_R, mask=at_R < m, other=-1)
    a_RW = unit_rows(a, a_rows, a_length, a_from_R, at_R, n, D, W, NORMALIZE, WRITE, True)
    b_RW = unit_rows(b, b_rows, b_length, b_from_R, at_R, m, D, W, NORMALIZE, WRITE, True)
    tl.store(longest + program, tl.max(tl.sqrt(tl.sum(a_RW * a_RW, 1)), 0))
    tl.store(longest + tl.num_programs(0) + program, tl.max(tl.sqrt(tl.sum(b_RW * b_RW, 1)), 0))
    s = tl.load(scale)
    if KIND == "diagonal":
        tl.store(x_rows + at_R, tl.sum(a_RW * b_RW, 1) * s, mask=at_R < tl.maximum(n, m))
    if KIND == "masked":
        match_RW = unit_rows(b, b_rows, None, a_from_R, at_R, m, D, W, NORMALIZE, WRITE, False)
        tl.store(x_rows + at_R, tl.sum(a_RW * match_RW, 1) * s, mask=at_R < n)
        match_RW = unit_rows(a, a_rows, None, b_from_R, at_R, n, D, W, NORMALIZE, WRITE, False)
        tl.store(x_columns + at_R, tl.sum(b_RW * match_RW, 1) * s, mask=at_R < m)


@triton.jit(do_not_specialize=["n"])
def normalize_rows(raw, out, length, n, D: tl.constexpr, W: tl.constexpr, R: tl.constexpr):
    """Write rows with length 1, and their lengths."""
    at_R = tl.program_id(0) * R + tl.arange(0, R)
    unit_rows(raw, out, length, at_R, at_R, n, D, W, True, True, True)


@triton.jit
def unit_rows(
    raw,
    out,
    length,
    from_R,
    at_R,
    n,
    D: tl.constexpr,
    W: tl.constexpr,
    NORMALIZE: tl.constexpr,
    WRITE: tl.constexpr,
    STORE: tl.constexpr,
):
    """Return some of N rows in fp32 as they are written if ``STORE``; 0 where there is none."""
    k_W = tl.arange(0, W)
    there_R = (from_R >= 0) & (from_R < n)
    there_RW = there_R[:, None] & (k_W < D)[None, :]
    raw_at = raw + from_R.to(tl.int64)[:, None] * D + k_W[None, :]
    x_RW = tl.load(raw_at, mask=there_RW, other=0.0).to(tl.float32)
    if NORMALIZE:
        size_R = tl.maximum(tl.sqrt(tl.sum(x_RW * x_RW, 1)), 1e-12)
        x_RW = x_RW / size_R[:, None]
        if STORE:
            tl.store(length + at_R, size_R, mask=there_R)
    if WRITE:
        rounded_RW = x_RW.to(out.dtype.element_ty)
        if STORE:
            out_at = out + at_R.to(tl.int64)[:, None] * D + k_W[None, :]
            tl.store(out_at, rounded_RW, mask=there_RW)
        x_RW = rounded_RW.to(tl.float32)
    return x_RW


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
    dot = finish(x, grad, tl.load(factor), length, out, row, row, D, W, RAW)
    tl.store(dots + row, dot)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["factor", "outer"])
def finalize_gradients(
    a,
    b,
    a_grad,
    b_grad,
    factor,
    outer,
    scale,
    a_length,
    b_length,
    a_order,
    b_order,
    a_out,
    b_out,
    dots,
    n,
    D: tl.constexpr,
    W: tl.constexpr,
    RAW: tl.constexpr,
    ORDERED: tl.constexpr,
    LIFT: tl.constexpr,
):
    """Do what ``finalize_gradient`` does for a row of a or b; ``dots`` are those of a.

    If rows are ``ORDERED`` otherwise than they were given, gradients are written as those were.
    The factor is that of the loss times the ``outer`` gradient; where gradients were multiplied by
    ``LIFT``, it makes that the scale.
    """
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(factor) * tl.load(outer)
    if LIFT > 0:
        factor *= tl.load(scale) / LIFT
    if row < n:
        to = row
        if ORDERED:
            to = tl.load(a_order + row)
        dot = finish(a, a_grad, factor, a_length, a_out, row, to, D, W, RAW)
        tl.store(dots + row, dot)
    else:
        row -= n
        to = row
        if ORDERED:
            to = tl.load(b_order + row)
        finish(b, b_grad, factor, b_length, b_out, row, to, D, W, RAW)


@triton.jit
def finish(
    x,
    grad,
    factor,
    length,
    out,
    row,
    to,
    D: tl.constexpr,
    W: tl.constexpr,
    RAW: tl.constexpr,
):
    """Write the gradient of a row where it has to go; return its dot product with the row."""
    k_W = tl.arange(0, W)
    x_W = tl.load(x + row * D + k_W, mask=k_W < D, other=0.0).to(tl.float32)
    g_W = tl.load(grad + row * D + k_W, mask=k_W < D, other=0.0) * factor
    dot = tl.sum(x_W * g_W, 0)
    if not RAW:
        g_W = (g_W - x_W * dot) / tl.load(length + row)
    tl.store(out + to * D + k_W, g_W.to(out.dtype.element_ty), mask=k_W < D)
    return dot
