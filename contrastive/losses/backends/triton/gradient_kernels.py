"""The kernels that write G, which the two products of the gradients are made with.

G is written in the type of the products. To save a pass over the gradients it is multiplied by the
scale where that fits the type; in fp16 by a number that keeps the digits of small ones.

Shapes: N rows of a, M rows of b, D wide; R rows and C columns of a tile, K of the width at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0912, PLR0917, RET505 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.device_functions import (
    LOG2E,
    UNALIGNED,
    VARIABLE,
    at,
    band,
    dots,
    inside,
    match_of,
    same,
    softplus2,
    special,
    tile_position,
)

SIDES = ["row_log", "row_same", "row_pull", "column_log", "column_same", "column_pull"]


@triton.jit(do_not_specialize=["n", "m"], do_not_specialize_on_alignment=SIDES)
def weigh(
    a,
    b,
    g,
    scale,
    shift,
    row_log,
    column_log,
    n,
    m,
    stride,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    LIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write G as if all pairs were negatives, times the scale, or times ``LIFT`` if that is not 0.

    One exp serves rows and columns. ``complete`` writes all other pairs.
    """
    rows_R, columns_C, row, column, _, _ = tile_position(tl.program_id(0), n, m, R, C)
    dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
    shared = tl.load(shift)
    e_RC = tl.exp2(dot_RC * (tl.load(scale) * LOG2E) - shared)  # at once, so that it rounds once
    lift = lifted(scale, LIFT)
    u_R = tl.exp2(shared - log2_of(row_log, rows_R, n, lift))
    v_C = tl.exp2(shared - log2_of(column_log, columns_C, m, lift))
    g_RC = e_RC * (u_R[:, None] + v_C[None, :])
    there_RC = inside(rows_R, columns_C, n, stride)
    g_RC = g_RC.to(g.dtype.element_ty)
    tl.store(at(g, rows_R, columns_C, row, column, stride), g_RC, mask=there_RC)


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED + SIDES)
def complete(
    a,
    b,
    g,
    first,
    last,
    match,
    scale,
    exact,
    row_log,
    row_same,
    row_pull,
    column_log,
    column_same,
    column_pull,
    n,
    m,
    offset,
    stride,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    LIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write G of the pairs that are no negatives; all of it if ``exact`` is set.

    The latter with an exp for the row and one for the column. A program takes some rows at a time,
    and of their tiles those that may have such a pair.
    """
    lift = lifted(scale, LIFT)
    k = tl.load(scale) * LOG2E
    exactly = tl.load(exact) != 0
    row = tl.program_id(0) * R
    while row < n:
        rows_R = row + tl.arange(0, R)
        pull_R = tl.load(row_pull + rows_R, mask=rows_R < n, other=0.0) * lift
        match_R = match_of(match, rows_R, n, offset)
        column = 0
        end = m
        if not exactly:
            end = 0
            if KIND != "diagonal":
                column, end = band(first, last, rows_R, n, m, offset, C)
        while column < end:
            columns_C = column + tl.arange(0, C)
            pull_C = tl.load(column_pull + columns_C, mask=columns_C < m, other=0.0) * lift
            pull_RC = pull_R[:, None] + pull_C[None, :]
            g_at = at(g, rows_R, columns_C, row, column, stride)
            own_RC = tl.zeros((R, C), tl.float32)
            x_RC = tl.zeros((R, C), tl.float32)
            if KIND == "groups" or exactly:
                x_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED) * k
            if KIND == "groups":
                own_RC = exps(x_RC, row_same, column_same, rows_R, columns_C, n, m, lift) - pull_RC
                if match is not None:  # the row itself
                    own_RC = tl.where(match_R[:, None] == columns_C[None, :], 0.0, own_RC)
            there_RC = inside(rows_R, columns_C, n, m)
            if exactly:
                g_RC = exps(x_RC, row_log, column_log, rows_R, columns_C, n, m, lift)
                if KIND != "diagonal":
                    same_RC = same(first, last, rows_R, columns_C, n, offset)
                    own_RC = tl.where(same_RC, own_RC, g_RC)
                else:
                    own_RC = g_RC
                if KIND != "groups":
                    own_RC = tl.where(match_R[:, None] == columns_C[None, :], -pull_RC, own_RC)
            elif KIND != "diagonal":
                there_RC &= same(first, last, rows_R, columns_C, n, offset)
                if KIND == "masked":
                    there_RC &= match_R[:, None] != columns_C[None, :]
            tl.store(g_at, own_RC.to(g.dtype.element_ty), mask=there_RC)
            column += C
        if KIND != "groups":
            # Triton 3.9 interprets no scalar & vector
            there_R = (rows_R < tl.where(exactly, 0, n)) & (match_R >= 0) & (match_R < m)
            pull_R += tl.load(column_pull + match_R, mask=there_R, other=0.0) * lift
            g_at = g + rows_R.to(tl.int64) * stride + match_R
            tl.store(g_at, (-pull_R).to(g.dtype.element_ty), mask=there_R)
        row += tl.num_programs(0) * R


@triton.jit
def exps(x_RC, row_log, column_log, rows_R, columns_C, n, m, lift):
    """Return the share of pairs in the sum of their row, plus that in the sum of their column."""
    by_row_RC = tl.exp2(x_RC - log2_of(row_log, rows_R, n, lift)[:, None])
    return by_row_RC + tl.exp2(x_RC - log2_of(column_log, columns_C, m, lift)[None, :])


@triton.jit
def lifted(scale, LIFT: tl.constexpr):
    """Return what G is multiplied by."""
    if LIFT == 0:
        return tl.load(scale)
    else:
        return tl.full((), LIFT, tl.float32)


@triton.jit
def log2_of(log, lines, n, lift):
    """Return the logarithms of some lines to base 2, less that of ``lift``; infinite beyond n."""
    return tl.load(log + lines, mask=lines < n, other=float("inf")) * LOG2E - tl.log2(lift)


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=SIDES)
def rescale(
    exps,
    g,
    scale,
    shift,
    row_log,
    column_log,
    n,
    m,
    exps_stride,
    stride,
    R: tl.constexpr,
    C: tl.constexpr,
    LIFT: tl.constexpr,
):
    """Write what ``weigh`` writes, from the exps that ``sums`` has kept; not for groups.

    Pairs that take no part were kept as 0.
    """
    rows_R, columns_C, row, column, _, _ = tile_position(tl.program_id(0), n, m, R, C)
    there_RC = inside(rows_R, columns_C, n, stride)
    e_RC = tl.load(at(exps, rows_R, columns_C, row, column, exps_stride), mask=there_RC, other=0.0)
    lift = lifted(scale, LIFT)
    shared = tl.load(shift)
    u_R = tl.exp2(shared - log2_of(row_log, rows_R, n, lift))
    v_C = tl.exp2(shared - log2_of(column_log, columns_C, m, lift))
    g_RC = e_RC.to(tl.float32) * (u_R[:, None] + v_C[None, :])
    tl.store(
        at(g, rows_R, columns_C, row, column, stride), g_RC.to(g.dtype.element_ty), mask=there_RC
    )


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED)
def sigmoid(
    a,
    b,
    g,
    first,
    last,
    match,
    scale,
    bias,
    tile_loss,
    tile_g,
    n,
    m,
    offset,
    stride,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    LIFT: tl.constexpr,
    GRADIENTS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write each tile's loss and, for gradients, G as ``weigh`` does and its sum over the tile.

    With ``y = x`` for negatives and -x for positives, the loss of a pair is softplus(y).
    """
    rows_R, columns_C, row, column, _, _ = tile_position(tl.program_id(0), n, m, R, C)
    dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
    s = tl.load(scale)
    y_RC = dot_RC * (s * LOG2E) + tl.load(bias) * LOG2E
    there = special(first, last, match, rows_R, columns_C, row, column, n, m, offset, KIND)
    if there:
        counts_RC = inside(rows_R, columns_C, n, m)
        positive_RC = positives(first, last, match, rows_R, columns_C, n, offset, KIND)
        if KIND == "masked":
            counts_RC &= positive_RC | ~same(first, last, rows_R, columns_C, n, offset)
        y_RC = tl.where(positive_RC, -y_RC, y_RC)
        y_RC = tl.where(counts_RC, y_RC, float("-inf"))
    loss_RC, g_RC = softplus2(y_RC)
    tl.store(tile_loss + tl.program_id(0), tl.sum(tl.sum(loss_RC, 1), 0))
    if GRADIENTS:
        if there:  # the mask is made again, since one that is held from above would spill
            positive_RC = positives(first, last, match, rows_R, columns_C, n, offset, KIND)
            g_RC = tl.where(positive_RC, -g_RC, g_RC)
        tl.store(tile_g + tl.program_id(0), tl.sum(tl.sum(g_RC, 1), 0))
        g_RC = (g_RC * lifted(scale, LIFT)).to(g.dtype.element_ty)
        there_RC = inside(rows_R, columns_C, n, stride)
        tl.store(at(g, rows_R, columns_C, row, column, stride), g_RC, mask=there_RC)


@triton.jit
def positives(first, last, match, rows_R, columns_C, n, offset, KIND: tl.constexpr):
    """Return which pairs of a tile are positives."""
    if KIND == "groups":
        return same(first, last, rows_R, columns_C, n, offset)
    else:
        return match_of(match, rows_R, n, offset)[:, None] == columns_C[None, :]
