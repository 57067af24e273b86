"""The kernels that write G, which the two products of the gradients are made with.

G is written in the type of the products. To save a pass over the gradients it is multiplied by the
scale where that fits the type; in fp16 by a number that keeps the digits of small ones.

Shapes: N rows of a, M rows of b, D wide; R rows and C columns of a tile, K of the width at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ARG001, ANN201, PLR0917, RET505, SIM102 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.device_functions import (
    LOG2E,
    UNALIGNED,
    VARIABLE,
    at,
    dots,
    inside,
    negatives,
    same,
    softplus2,
    some,
    special,
    tile_position,
)

SIDES = ["row_log", "row_same", "row_pull", "column_log", "column_same", "column_pull"]


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED + SIDES)
def weigh(
    a,
    b,
    g,
    a_ids,
    b_ids,
    scale,
    shift,
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
    """Write G, times the scale, or times ``LIFT`` if that is not 0; matched pairs get any number.

    One exp serves rows and columns. ``complete`` writes the matched pairs.
    """
    rows_R, columns_C, row, column, _, _ = tile_position(tl.program_id(0), n, m, R, C)
    dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
    shared = tl.load(shift)
    e_RC = tl.exp2(dot_RC * (tl.load(scale) * LOG2E) - shared)  # at once, so that it rounds once
    lift = lifted(scale, LIFT)
    u_R = tl.exp2(shared - log2_of(row_log, rows_R, n, lift))
    v_C = tl.exp2(shared - log2_of(column_log, columns_C, m, lift))
    g_RC = e_RC * (u_R[:, None] + v_C[None, :])
    if KIND != "diagonal":
        if some(same(a_ids, b_ids, rows_R, columns_C, n, m)):
            own_RC = tl.zeros((R, C), tl.float32)
            if KIND == "groups":  # their exps are in the sums, so the shift suits them too
                u_R = tl.exp2(shared - log2_of(row_same, rows_R, n, lift))
                v_C = tl.exp2(shared - log2_of(column_same, columns_C, m, lift))
                pull_R = tl.load(row_pull + rows_R, mask=rows_R < n, other=0.0) * lift
                pull_C = tl.load(column_pull + columns_C, mask=columns_C < m, other=0.0) * lift
                own_RC = e_RC * (u_R[:, None] + v_C[None, :]) - (pull_R[:, None] + pull_C[None, :])
            # the ids are read again, since a mask that is held from above would spill
            g_RC = tl.where(same(a_ids, b_ids, rows_R, columns_C, n, m), own_RC, g_RC)
    there_RC = inside(rows_R, columns_C, n, stride)
    g_RC = g_RC.to(g.dtype.element_ty)
    tl.store(at(g, rows_R, columns_C, row, column, stride), g_RC, mask=there_RC)


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED + SIDES)
def complete(
    a,
    b,
    g,
    a_ids,
    b_ids,
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
    """Write G of the matched pairs; if ``exact`` is set, all that ``weigh`` writes again.

    The latter with an exp for the row and one for the column. A few programs share the tiles, since
    thousands would take their time even to do nothing.
    """
    if tl.load(exact) == 0:
        if KIND != "groups":
            lift = lifted(scale, LIFT)
            row = tl.program_id(0) * R
            while row < n:
                rows_R = row + tl.arange(0, R)
                columns_R = rows_R + offset
                there_R = (rows_R < n) & (columns_R >= 0) & (columns_R < m)
                pull_R = tl.load(row_pull + rows_R, mask=there_R, other=0.0)
                pull_R += tl.load(column_pull + columns_R, mask=there_R, other=0.0)
                g_at = g + rows_R.to(tl.int64) * stride + columns_R
                tl.store(g_at, (-pull_R * lift).to(g.dtype.element_ty), mask=there_R)
                row += tl.num_programs(0) * R
        return
    tile = tl.program_id(0)
    while tile < tl.cdiv(n, R) * tl.cdiv(m, C):
        rows_R, columns_C, row, column, _, _ = tile_position(tile, n, m, R, C)
        dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
        lift = lifted(scale, LIFT)
        x_RC = dot_RC * (tl.load(scale) * LOG2E)
        g_RC = tl.exp2(x_RC - log2_of(row_log, rows_R, n, lift)[:, None])
        g_RC += tl.exp2(x_RC - log2_of(column_log, columns_C, m, lift)[None, :])
        pull_R = tl.load(row_pull + rows_R, mask=rows_R < n, other=0.0) * lift
        pull_C = tl.load(column_pull + columns_C, mask=columns_C < m, other=0.0) * lift
        pull_RC = pull_R[:, None] + pull_C[None, :]
        if KIND != "diagonal":
            own_RC = tl.zeros((R, C), tl.float32)
            if KIND == "groups":
                same_R = log2_of(row_same, rows_R, n, lift)
                same_C = log2_of(column_same, columns_C, m, lift)
                own_RC = tl.exp2(x_RC - same_R[:, None]) + tl.exp2(x_RC - same_C[None, :]) - pull_RC
            g_RC = tl.where(same(a_ids, b_ids, rows_R, columns_C, n, m), own_RC, g_RC)
        if KIND != "groups":
            g_RC = tl.where(rows_R[:, None] + offset == columns_C[None, :], -pull_RC, g_RC)
        there_RC = inside(rows_R, columns_C, n, stride)
        g_RC = g_RC.to(g.dtype.element_ty)
        tl.store(at(g, rows_R, columns_C, row, column, stride), g_RC, mask=there_RC)
        tile += tl.num_programs(0)


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
    a_ids,
    b_ids,
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

    With ``y = x`` for negatives and -x for positives, the loss of a pair is softplus(y). Matched
    pairs are left out, but in groups.
    """
    rows_R, columns_C, row, column, _, _ = tile_position(tl.program_id(0), n, m, R, C)
    dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
    s = tl.load(scale)
    y_RC = dot_RC * (s * LOG2E) + tl.load(bias) * LOG2E
    there = special(a_ids, b_ids, rows_R, columns_C, row, column, n, m, offset, KIND)
    if there:
        if KIND == "groups":
            y_RC = tl.where(same(a_ids, b_ids, rows_R, columns_C, n, m), -y_RC, y_RC)
            counts_RC = inside(rows_R, columns_C, n, m)
        else:
            counts_RC = negatives(a_ids, b_ids, rows_R, columns_C, n, m, offset, KIND)
        y_RC = tl.where(counts_RC, y_RC, float("-inf"))
    loss_RC, g_RC = softplus2(y_RC)
    tl.store(tile_loss + tl.program_id(0), tl.sum(tl.sum(loss_RC, 1), 0))
    if GRADIENTS:
        if KIND == "groups":
            if there:
                g_RC = tl.where(same(a_ids, b_ids, rows_R, columns_C, n, m), -g_RC, g_RC)
        tl.store(tile_g + tl.program_id(0), tl.sum(tl.sum(g_RC, 1), 0))
        g_RC = (g_RC * lifted(scale, LIFT)).to(g.dtype.element_ty)
        there_RC = inside(rows_R, columns_C, n, stride)
        tl.store(at(g, rows_R, columns_C, row, column, stride), g_RC, mask=there_RC)
