"""The kernels over the sums of rows and columns: adding up what tiles have left, and the loss.

They take both sides at once, since each launch costs its host more than the kernel.

Shapes: N rows of a, M rows of b, T tiles, P programs; R lines at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.device_functions import LN2, LOG2E, softplus2


@triton.jit(do_not_specialize=["p", "n", "m", "room"])
def scalars(
    longest,
    scale,
    row_count,
    column_count,
    out,
    exact,
    p,
    n,
    m,
    room,
    COUNTED: tl.constexpr,
    B: tl.constexpr,
):
    """Write what all kernels of InfoNCE share, and clear ``exact``; one program.

    That is, in the order of ``launch_rows.Scalars``: the shift of all exponents; the weights of
    rows and of columns in G; their shares in the loss; the factor of the gradients. Unless
    ``COUNTED``, the rows that have a positive are the first ones of both sides.
    """
    if COUNTED:
        n_rows = tl.maximum(positives(row_count, n, B), 1.0)
        n_columns = tl.maximum(positives(column_count, m, B), 1.0)
    else:
        n_rows = tl.minimum(n, m).to(tl.float32)
        n_columns = n_rows
    unit = tl.minimum(n_rows, n_columns)
    both = largest(longest, p, B) * largest(longest + p, p, B)
    tl.store(out, tl.maximum(both * tl.load(scale) * LOG2E - room, 0.0))
    tl.store(out + 1, unit / n_rows)
    tl.store(out + 2, unit / n_columns)
    tl.store(out + 3, 0.5 / n_rows)
    tl.store(out + 4, 0.5 / n_columns)
    tl.store(out + 5, 0.5 / unit)
    tl.store(exact, 0)


@triton.jit
def positives(count, n, B: tl.constexpr):
    """Return how many rows have a positive, fp32."""
    total_B = tl.zeros((B,), tl.float32)
    start = 0
    while start < n:
        rows_B = start + tl.arange(0, B)
        count_B = tl.load(count + rows_B, mask=rows_B < n, other=0.0)
        total_B += tl.where(count_B > 0, 1.0, 0.0)
        start += B
    return tl.sum(total_B, 0)


@triton.jit
def largest(x, n, B: tl.constexpr):
    """Return the largest of n numbers that are at least 0."""
    found_B = tl.zeros((B,), tl.float32)
    start = 0
    while start < n:
        rows_B = start + tl.arange(0, B)
        found_B = tl.maximum(found_B, tl.load(x + rows_B, mask=rows_B < n, other=0.0))
        start += B
    return tl.max(found_B, 0)


@triton.jit(
    do_not_specialize=[
        "across",
        "down",
        "n",
        "m",
        "before",
        "is_last",
        "least_row",
        "least_column",
    ],
    do_not_specialize_on_alignment=["row_log", "row_positive"],
)
def fold(
    row_parts,
    column_parts,
    row_positive_parts,
    column_positive_parts,
    row_log,
    column_log,
    row_positive,
    column_positive,
    shift,
    exact,
    across,
    down,
    n,
    m,
    before,
    is_last,
    least_row,
    least_column,
    POSITIVES: tl.constexpr,
    R: tl.constexpr,
    T: tl.constexpr,
):
    """Write the natural logarithms of the sums of rows, and those of columns.

    Sums of rows are complete in a block of rows: those of ``row_parts`` ``[across, N]``. Sums of
    columns, of ``column_parts`` ``[down, M]``, are added to those of the blocks ``before``, which
    have sums of so many columns: none or all; their logarithms are taken in the last. ``exact`` is
    set where a sum is less than the least that has lost nothing to the ``shift``. ``POSITIVES`` are
    added up likewise.
    """
    line = tl.program_id(0) * R
    if line < n:
        lines_R = line + tl.arange(0, R)
        total_R = added(row_parts, lines_R, across, n, T)
        store_log(row_log, total_R, lines_R, n, shift, exact, least_row)
        if POSITIVES:
            own_R = added(row_positive_parts, lines_R, across, n, T)
            tl.store(row_positive + lines_R, own_R, mask=lines_R < n)
    else:
        lines_R = line - tl.cdiv(n, R) * R + tl.arange(0, R)
        there_R = lines_R < before
        total_R = added(column_parts, lines_R, down, m, T)
        total_R += tl.load(column_log + lines_R, mask=there_R, other=0.0)
        if is_last:
            store_log(column_log, total_R, lines_R, m, shift, exact, least_column)
        else:
            tl.store(column_log + lines_R, total_R, mask=lines_R < m)
        if POSITIVES:
            own_R = added(column_positive_parts, lines_R, down, m, T)
            own_R += tl.load(column_positive + lines_R, mask=there_R, other=0.0)
            tl.store(column_positive + lines_R, own_R, mask=lines_R < m)


@triton.jit
def added(parts, lines_R, t, n, T: tl.constexpr):
    """Return the sums of ``parts`` ``[T, N]`` over the tiles."""
    total_R = tl.zeros(lines_R.shape, tl.float32)
    start = 0
    while start < t:
        tiles_T = start + tl.arange(0, T)
        there_TR = (tiles_T < t)[:, None] & (lines_R < n)[None, :]
        at_TR = tiles_T.to(tl.int64)[:, None] * n + lines_R[None, :]
        total_R += tl.sum(tl.load(parts + at_TR, mask=there_TR, other=0.0), 0)
        start += T
    return total_R


@triton.jit
def store_log(out, total_R, lines_R, n, shift, exact, least):
    """Write the logarithms of sums, and set ``exact`` if one is too small."""
    lost_R = (total_R < least) & (lines_R < n)
    tl.store(exact, 1, mask=tl.max(lost_R.to(tl.int32), 0) > 0)  # all that write it write the same
    empty_R = total_R == 0
    log_R = tl.log2(tl.where(empty_R, 1.0, total_R)) + tl.load(shift)
    log_R = tl.where(empty_R, float("-inf"), log_R * LN2)
    tl.store(out + lines_R, log_R, mask=lines_R < n)


@triton.jit(do_not_specialize=["n", "m"])
def stats(
    row_log,
    column_log,
    row_positive,
    column_positive,
    row_count,
    column_count,
    scalars,
    row_side,
    column_side,
    loss,
    n,
    m,
    COUNTED: tl.constexpr,
    R: tl.constexpr,
):
    """Write what ``row_stats`` returns of rows and columns: the sides ``[3, N]`` and ``[3, M]``.

    ``loss`` ``[P]`` gets each program's part of the loss. Unless ``COUNTED``, each of the first
    rows of both sides has one positive.
    """
    line = tl.program_id(0) * R
    if line < n:
        lines_R = line + tl.arange(0, R)
        loss_R = side(
            row_log, row_positive, row_count, scalars + 1, row_side, lines_R, n, m, COUNTED
        )
        tl.store(loss + tl.program_id(0), tl.sum(loss_R, 0) * tl.load(scalars + 3))
    else:
        lines_R = line - tl.cdiv(n, R) * R + tl.arange(0, R)
        loss_R = side(
            column_log, column_positive, column_count, scalars + 2, column_side, lines_R, m, n,
            COUNTED,
        )  # fmt: skip
        tl.store(loss + tl.program_id(0), tl.sum(loss_R, 0) * tl.load(scalars + 4))


@triton.jit
def side(log, positive, count, weight, out, lines_R, n, m, COUNTED: tl.constexpr):
    """Write the statistics of some lines; return their losses."""
    there_R = lines_R < n
    log_R = tl.load(log + lines_R, mask=there_R, other=0.0)
    positive_R = tl.load(positive + lines_R, mask=there_R, other=0.0)
    if COUNTED:
        count_R = tl.load(count + lines_R, mask=there_R, other=0.0)
    else:
        count_R = tl.where(there_R & (lines_R < m), 1.0, 0.0)
    none_R, many_R = count_R == 0, count_R > 1
    count_R = tl.maximum(count_R, 1.0)
    target_R = positive_R / count_R
    over_R = log_R - target_R
    loss_R, share_R = softplus2(over_R * LOG2E)
    less_R, _ = softplus2(-tl.abs(over_R) * LOG2E)
    total_R = tl.where(many_R, log_R, tl.maximum(log_R, target_R) + less_R)
    weight = tl.load(weight)
    total_R = tl.where(none_R, float("inf"), total_R - tl.log(weight))
    pull_R = tl.where(none_R, 0.0, weight * tl.where(many_R, 1.0 / count_R, share_R))
    tl.store(out + lines_R, total_R, mask=there_R)
    tl.store(out + n + lines_R, tl.where(many_R, total_R, float("inf")), mask=there_R)
    tl.store(out + 2 * n + lines_R, pull_R, mask=there_R)
    return tl.where(none_R, 0.0, tl.where(many_R, over_R, loss_R))
