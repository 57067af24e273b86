"""What the kernels over pairs share: which tile, its dot products, and who is whose positive.

Shapes: N rows of a, M rows of b, D wide; R rows and C columns of a tile, K of the width at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917, D417 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# arguments that differ from call to call without a difference to the program
VARIABLE = ["n", "m", "offset"]
UNALIGNED = ["a_ids", "b_ids", "row_count", "column_count"]  # they may be those of a block of rows
GROUP = tl.constexpr(8)  # tiles of so many rows come before the next columns: they stay in L2


@triton.jit
def tile_position(tile, n, m, R: tl.constexpr, C: tl.constexpr):
    """Return the rows and columns of a tile, the first of each, and its position in the grid."""
    down = tl.cdiv(n, R)
    across = tl.cdiv(m, C)
    first = tile // (GROUP * across) * GROUP
    high = tl.minimum(down - first, GROUP)
    rest = tile % (GROUP * across)
    tile_row = first + rest % high
    tile_column = rest // high
    rows_R = tile_row * R + tl.arange(0, R)
    columns_C = tile_column * C + tl.arange(0, C)
    return rows_R, columns_C, tile_row * R, tile_column * C, tile_row, tile_column


@triton.jit
def at(matrix, rows_R, columns_C, row, column, stride):
    """Return where the pairs of a tile are in a matrix whose rows are ``stride`` apart.

    All such matrices have room for a multiple of 16 columns, so that they are read and written in
    wide pieces whatever the number of columns. Within a tile 32 bits are enough to count.
    """
    stride = tl.multiple_of(stride, 16)
    first = matrix + row.to(tl.int64) * stride + column
    return first + ((rows_R - row)[:, None] * stride + (columns_C - column)[None, :])


@triton.jit
def dots(
    a,
    b,
    rows_R,
    columns_C,
    n,
    m,
    D: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Return the dot products of a tile, fp32.

    What is beyond the last row or column is any number, so that only the width needs a mask.
    """
    rows_R = tl.minimum(rows_R, n - 1).to(tl.int64)
    columns_C = tl.minimum(columns_C, m - 1).to(tl.int64)
    k_K = tl.arange(0, K)
    a_at = a + rows_R[:, None] * D + k_K[None, :]
    b_at = b + columns_C[None, :] * D + k_K[:, None]
    dot_RC = tl.zeros((rows_R.shape[0], columns_C.shape[0]), tl.float32)
    for start in range(0, D, K):
        if D % K == 0:
            a_RK = tl.load(a_at)
            b_KC = tl.load(b_at)
        else:
            a_RK = tl.load(a_at, mask=k_K[None, :] < D - start, other=0.0)
            b_KC = tl.load(b_at, mask=k_K[:, None] < D - start, other=0.0)
        if INTERPRETED:  # the interpreter has no arithmetic in half precision to speak of
            a_RK = a_RK.to(tl.float32)
            b_KC = b_KC.to(tl.float32)
        dot_RC = tl.dot(a_RK, b_KC, dot_RC, input_precision=PRECISION)
        a_at += K
        b_at += K
    return dot_RC


@triton.jit
def special(
    a_ids,
    b_ids,
    rows_R,
    columns_C,
    row,
    column,
    n,
    m,
    offset,
    KIND: tl.constexpr,
):
    """Return whether a tile has anything but negatives, or reaches beyond the last row or column.

    Args:
        row: the first of the tile.
        column: the first of the tile.
    """
    end = row + rows_R.shape[0]
    last = column + columns_C.shape[0]
    found = (end > n) | (last > m)
    if KIND != "groups":
        found = found | ((column < end + offset) & (row + offset < last))
    if KIND != "diagonal":
        found = found | some(same(a_ids, b_ids, rows_R, columns_C, n, m))
    return found


@triton.jit
def some(mask_RC):
    """Return whether a mask has any pair."""
    return tl.max(tl.max(mask_RC.to(tl.int32), 1), 0) > 0


@triton.jit
def same(a_ids, b_ids, rows_R, columns_C, n, m):
    """Return whether the ids of a row and a column are equal; any answer beyond the last."""
    a_R = tl.load(a_ids + rows_R, mask=rows_R < n, other=0)
    b_C = tl.load(b_ids + columns_C, mask=columns_C < m, other=0)
    return a_R[:, None] == b_C[None, :]


@triton.jit
def inside(rows_R, columns_C, n, m):
    """Return which pairs of a tile there are."""
    return (rows_R < n)[:, None] & (columns_C < m)[None, :]


@triton.jit
def negatives(a_ids, b_ids, rows_R, columns_C, n, m, offset, KIND: tl.constexpr):
    """Return which pairs of a tile are negatives."""
    mask_RC = inside(rows_R, columns_C, n, m)
    if KIND != "groups":
        mask_RC = mask_RC & (rows_R[:, None] + offset != columns_C[None, :])
    if KIND != "diagonal":
        mask_RC = mask_RC & ~same(a_ids, b_ids, rows_R, columns_C, n, m)
    return mask_RC


@triton.jit
def softplus2(y):
    """Return softplus and sigmoid of ``y * ln(2)``, both to a few units of the last place."""
    t = tl.exp2(-tl.abs(y))
    # log(1 + t) / t for t from 0 to 1, a fit with the least relative error, 2e-7
    p = 0.0440872302 - 0.008538694 * t
    p = p * t - 0.107677418
    p = p * t + 0.177448626
    p = p * t - 0.244952888
    p = p * t + 0.332754398
    p = p * t - 0.499974015
    p = p * t + 0.999999805
    positive = 1 / (1 + t)
    return tl.maximum(y, 0.0) * LN2 + p * t, tl.where(y >= 0, positive, t * positive)
