"""What the kernels over pairs share: which tile, its dot products, and who is whose positive.

Shapes: N rows of a, M rows of b, D wide; R rows and C columns of a tile, K of the width at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917, D417, RET505 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# arguments that differ from call to call without a difference to the program
VARIABLE = ["n", "m", "offset"]
# they may be those of a block of rows
UNALIGNED = ["first", "last", "match", "row_count", "column_count"]
NO_MATCH = tl.constexpr(-(2**30))
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
    first,
    last,
    match,
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
    beyond = column + columns_C.shape[0]
    found = (end > n) | (beyond > m)
    if KIND == "diagonal":
        found = found | ((column < end + offset) & (row + offset < beyond))
    else:
        found = found | meets(first, last, rows_R, columns_C, column, n, offset)
    if KIND == "masked":
        column_R = match_of(match, rows_R, n, offset)
        found = found | some((column_R >= column) & (column_R < beyond))
    return found


@triton.jit
def meets(first, last, rows_R, columns_C, column, n, offset):
    """Return whether a tile has pairs with equal ids: few have, since both sides are sorted."""
    first_R = tl.load(first + rows_R, mask=rows_R < n, other=0) + offset
    last_R = tl.load(last + rows_R, mask=rows_R < n, other=0) + offset
    return some((first_R < last_R) & (first_R < column + columns_C.shape[0]) & (last_R > column))


@triton.jit
def band(first, last, rows_R, n, m, offset, C: tl.constexpr):
    """Return the first column of the first tile that may have an id of some rows, and the end."""
    first_R = tl.load(first + rows_R, mask=rows_R < n, other=0) + offset
    last_R = tl.load(last + rows_R, mask=rows_R < n, other=0) + offset
    column = tl.min(tl.where(first_R < last_R, first_R, m), 0)
    end = tl.max(tl.where(first_R < last_R, last_R, 0), 0)
    return tl.maximum(column, 0) // C * C, tl.minimum(end, m)


@triton.jit
def some(mask_R):
    """Return whether a mask has any row."""
    return tl.max(mask_R.to(tl.int32), 0) > 0


@triton.jit
def same(first, last, rows_R, columns_C, n, offset):
    """Return whether the ids of a row and a column are equal; not beyond the last row.

    The columns with the id of a row are next to each other, from ``first`` to before ``last``.
    """
    first_R = tl.load(first + rows_R, mask=rows_R < n, other=0) + offset
    last_R = tl.load(last + rows_R, mask=rows_R < n, other=0) + offset
    return (columns_C[None, :] >= first_R[:, None]) & (columns_C[None, :] < last_R[:, None])


@triton.jit
def match_of(match, rows_R, n, offset):
    """Return the columns that rows are matched with; a negative one, or one beyond, if none."""
    if match is not None:
        return tl.load(match + rows_R, mask=rows_R < n, other=NO_MATCH) + offset
    else:
        return rows_R + offset


@triton.jit
def inside(rows_R, columns_C, n, m):
    """Return which pairs of a tile there are."""
    return (rows_R < n)[:, None] & (columns_C < m)[None, :]


@triton.jit
def negatives(first, last, match, rows_R, columns_C, n, m, offset, KIND: tl.constexpr):
    """Return which pairs of a tile are negatives."""
    mask_RC = inside(rows_R, columns_C, n, m)
    if KIND != "groups":
        column_R = match_of(match, rows_R, n, offset)
        mask_RC = mask_RC & (column_R[:, None] != columns_C[None, :])
    if KIND != "diagonal":
        mask_RC = mask_RC & ~same(first, last, rows_R, columns_C, n, offset)
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
