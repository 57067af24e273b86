"""The kernels of the first pass: sums of exps over all pairs; logits never leave the registers.

Exponents are powers of 2: ``k = scale * log2(e)`` multiplies the fp32 dot products, and all have
one shift (see ``launch_rows.shift``). Positives and masked pairs are looked for only in the tiles
that have some. There are no atomics, so results repeat bit by bit: sums of a tile go to buffers
``[tiles, N]``, which ``line_kernels.fold`` adds up.

Scalars that may change with each step (scale, shift, exact) are read from memory, so that they need
neither a new program nor a wait for the GPU.

Shapes: N rows of a, M rows of b, D wide; R rows and C columns of a tile, K of the width at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.device_functions import (
    LN2,
    LOG2E,
    UNALIGNED,
    VARIABLE,
    at,
    band,
    dots,
    inside,
    match_of,
    meets,
    negatives,
    same,
    special,
    tile_position,
)


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED)
def sums(
    a,
    b,
    exps,
    first,
    last,
    match,
    scale,
    shift,
    row_sum,
    column_sum,
    row_positive,
    column_positive,
    n,
    m,
    offset,
    stride,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    KEEP: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write each tile's sums of exp over its rows and columns; in groups, of no positive.

    In groups, a tile that has positives is left to ``group_sums``, which needs more registers.
    """
    rows_R, columns_C, row, column, tile_row, tile_column = tile_position(
        tl.program_id(0), n, m, R, C
    )
    if KIND == "groups":  # noqa: SIM102 - what is known at compile time comes first
        if meets(first, last, rows_R, columns_C, column, n, offset):
            return
    dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
    # exp2 is one instruction, exp is not
    e_RC = tl.exp2(dot_RC * (tl.load(scale) * LOG2E) - tl.load(shift))
    if KIND == "groups":
        if (row + R > n) | (column + C > m):
            e_RC = tl.where(inside(rows_R, columns_C, n, m), e_RC, 0.0)
    elif special(first, last, match, rows_R, columns_C, row, column, n, m, offset, KIND):
        negative_RC = negatives(first, last, match, rows_R, columns_C, n, m, offset, KIND)
        e_RC = tl.where(negative_RC, e_RC, 0.0)
    if KEEP:  # the second pass rescales these instead of multiplying again
        there_RC = inside(rows_R, columns_C, n, stride)
        kept_RC = e_RC.to(exps.dtype.element_ty)
        tl.store(at(exps, rows_R, columns_C, row, column, stride), kept_RC, mask=there_RC)
    # a slot for each tile, since no two programs may write to one address; tiles x N may pass 2^31
    row_at = tile_column.to(tl.int64) * n + rows_R
    tl.store(row_sum + row_at, tl.sum(e_RC, 1), mask=rows_R < n)
    if COLUMNS:
        column_at = tile_row.to(tl.int64) * m + columns_C
        tl.store(column_sum + column_at, tl.sum(e_RC, 0), mask=columns_C < m)
    if KIND == "groups":
        tl.store(row_positive + row_at, tl.zeros((R,), tl.float32), mask=rows_R < n)
        if COLUMNS:
            tl.store(column_positive + column_at, tl.zeros((C,), tl.float32), mask=columns_C < m)


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED)
def group_sums(
    a,
    b,
    first,
    last,
    match,
    row_count,
    column_count,
    scale,
    shift,
    row_sum,
    column_sum,
    row_positive,
    column_positive,
    n,
    m,
    offset,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write what ``sums`` writes, of the tiles that it leaves; and the sums of positive logits.

    The positives of a row that has several are among its exps; so for a column. What a row is
    matched with is itself, and takes no part. A program takes some rows, and of their tiles those
    that have a positive.
    """
    tile_row = tl.program_id(0)
    rows_R = tile_row * R + tl.arange(0, R)
    column, end = band(first, last, rows_R, n, m, offset, C)
    s = tl.load(scale)
    many_R = tl.load(row_count + rows_R, mask=rows_R < n, other=0.0) > 1
    while column < end:
        columns_C = column + tl.arange(0, C)
        if meets(first, last, rows_R, columns_C, column, n, offset):
            row_at = (column // C).to(tl.int64) * n + rows_R
            column_at = tile_row.to(tl.int64) * m + columns_C
            many_C = tl.load(column_count + columns_C, mask=columns_C < m, other=0.0) > 1
            dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
            there_RC = inside(rows_R, columns_C, n, m)
            if match is not None:
                itself_R = match_of(match, rows_R, n, offset)
                there_RC = there_RC & (itself_R[:, None] != columns_C[None, :])
            same_RC = there_RC & same(first, last, rows_R, columns_C, n, offset)
            # the loss needs the positives' logits themselves, not their exps
            x_RC = tl.where(same_RC, dot_RC * s, 0.0)
            tl.store(row_positive + row_at, tl.sum(x_RC, 1), mask=rows_R < n)
            if COLUMNS:
                tl.store(column_positive + column_at, tl.sum(x_RC, 0), mask=columns_C < m)
            e_RC = tl.exp2(dot_RC * (s * LOG2E) - tl.load(shift))
            e_RC = tl.where(there_RC, e_RC, 0.0)
            by_row_RC = tl.where(same_RC & ~many_R[:, None], 0.0, e_RC)
            tl.store(row_sum + row_at, tl.sum(by_row_RC, 1), mask=rows_R < n)
            if COLUMNS:
                by_column_RC = tl.where(same_RC & ~many_C[None, :], 0.0, e_RC)
                tl.store(column_sum + column_at, tl.sum(by_column_RC, 0), mask=columns_C < m)
        column += C


@triton.jit(do_not_specialize=VARIABLE, do_not_specialize_on_alignment=UNALIGNED)
def peaks(
    a,
    b,
    first,
    last,
    match,
    row_count,
    column_count,
    scale,
    exact,
    row_log,
    column_log,
    n,
    m,
    offset,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write the logarithms again, each sum taken relative to its largest term.

    Only if ``exact`` is set; else nothing. A program takes some rows with all columns, or some
    columns with all rows, so that nothing has to be kept for another program.
    """
    if tl.load(exact) == 0:  # read on the device, so that the host need not wait for it
        return
    strip = tl.program_id(0)
    down = tl.cdiv(n, R)
    if strip < down:
        exact_logs(
            a, b, first, last, match, row_count, scale, row_log, strip * R, n, m, n, m, offset,
            D, R, C, K, KIND, 1, PRECISION, INTERPRETED,
        )  # fmt: skip
    else:
        exact_logs(
            a, b, first, last, match, column_count, scale, column_log, (strip - down) * C, m, n, n,
            m, offset, D, R, C, K, KIND, 0, PRECISION, INTERPRETED,
        )  # fmt: skip


@triton.jit
def exact_logs(
    a,
    b,
    first,
    last,
    match,
    count,
    scale,
    log,
    line,
    lines,
    others,
    n,
    m,
    offset,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    KIND: tl.constexpr,
    AXIS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write the logarithms of the rows from ``line`` on, along ``AXIS`` 1; 0, those of columns.

    There are ``lines`` of them, each with as many terms as there are ``others``.
    """
    rows_R = tl.arange(0, R)
    columns_C = tl.arange(0, C)
    lines_L = line + (rows_R if AXIS == 1 else columns_C)
    log_L = tl.full(lines_L.shape, float("-inf"), tl.float32)
    other = 0
    while other < others:
        if AXIS == 1:
            rows_R = lines_L
            columns_C = other + tl.arange(0, C)
        else:
            rows_R = other + tl.arange(0, R)
            columns_C = lines_L
        dot_RC = dots(a, b, rows_R, columns_C, n, m, D, K, PRECISION, INTERPRETED)
        counts_RC = negatives(first, last, match, rows_R, columns_C, n, m, offset, KIND)
        if KIND == "groups":
            many_L = tl.load(count + lines_L, mask=lines_L < lines, other=0.0) > 1
            there_RC = inside(rows_R, columns_C, n, m) & tl.expand_dims(many_L, AXIS)
            if match is not None:
                itself_R = match_of(match, rows_R, n, offset)
                there_RC = there_RC & (itself_R[:, None] != columns_C[None, :])
            counts_RC = counts_RC | there_RC
        x_RC = tl.where(counts_RC, dot_RC * (tl.load(scale) * LOG2E), float("-inf"))
        log_L = logsumexp2(tl.join(log_L, logsumexp2(x_RC, AXIS)), 1)
        other += C if AXIS == 1 else R
    tl.store(log + lines_L, log_L * LN2, mask=lines_L < lines)


@triton.jit
def logsumexp2(x, axis: tl.constexpr):
    """Return log2 of the sum of powers of 2 along an axis; -inf for an empty sum."""
    peak = tl.max(x, axis)
    peak = tl.where(peak == float("-inf"), 0.0, peak)  # -inf - -inf would be NaN
    total = tl.sum(tl.exp2(x - tl.expand_dims(peak, axis)), axis)
    return tl.where(total == 0, float("-inf"), peak + tl.log2(tl.where(total == 0, 1.0, total)))
