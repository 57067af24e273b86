"""The kernel that finds equal ids of two sides which are sorted by them.

Shapes: N rows of a, M rows of b; R rows at a time.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false
# ruff: noqa: ANN001, ANN201, PLR0917 - Triton has its own Python

from __future__ import annotations

import triton
import triton.language as tl

from contrastive.losses.backends.triton.device_functions import NO_MATCH


@triton.jit(
    do_not_specialize=["n", "m", "offset", "steps"], do_not_specialize_on_alignment=["b_raw"]
)
def bands(
    a_ids,
    b_ids,
    b_raw,
    a_order,
    b_order,
    first,
    last,
    match,
    row_count,
    column_count,
    n,
    m,
    offset,
    steps,
    KIND: tl.constexpr,
    COUNT: tl.constexpr,
    R: tl.constexpr,
):
    """Write which columns have the id of a row; and how many positives each row and column has.

    If there is a ``match``, also the column that a row is matched with: row i of the raw a with
    column ``i + offset`` of the raw b, whose ids are ``b_raw``. Sorting is stable, so that column
    is where its id and its number are.
    """
    line = tl.program_id(0) * R
    if line < n:
        rows_R = line + tl.arange(0, R)
        there_R = rows_R < n
        id_R = tl.load(a_ids + rows_R, mask=there_R, other=0)
        first_R = place(b_ids, None, id_R, None, m, steps, "none")
        last_R = place(b_ids, None, id_R, None, m, steps, "all")
        tl.store(first + rows_R, first_R, mask=there_R)
        tl.store(last + rows_R, last_R, mask=there_R)
        count_R = (last_R - first_R).to(tl.float32)
        if match is not None:
            raw_R = tl.load(a_order + rows_R, mask=there_R, other=0) + offset
            known_R = there_R & (raw_R >= 0) & (raw_R < m)
            raw_R = tl.where(known_R, raw_R, 0)
            raw_id_R = tl.load(b_raw + raw_R, mask=known_R, other=0)
            column_R = place(b_ids, b_order, raw_id_R, raw_R, m, steps, "earlier")
            tl.store(match + rows_R, tl.where(known_R, column_R, NO_MATCH), mask=there_R)
            if KIND == "masked":
                count_R = known_R.to(tl.float32)
        if COUNT:
            tl.store(row_count + rows_R, count_R, mask=there_R)
    elif COUNT:
        columns_R = line - tl.cdiv(n, R) * R + tl.arange(0, R)
        there_R = columns_R < m
        if KIND == "masked":
            raw_R = tl.load(b_order + columns_R, mask=there_R, other=0) - offset
            count_R = ((raw_R >= 0) & (raw_R < n)).to(tl.float32)
        else:
            id_R = tl.load(b_ids + columns_R, mask=there_R, other=0)
            first_R = place(a_ids, None, id_R, None, n, steps, "none")
            last_R = place(a_ids, None, id_R, None, n, steps, "all")
            count_R = (last_R - first_R).to(tl.float32)
        tl.store(column_count + columns_R, count_R, mask=there_R)


@triton.jit
def place(ids, order, id_R, raw_R, m, steps, EQUAL: tl.constexpr):
    """Return how many of M sorted ids come before some.

    Of equal ones as ``EQUAL`` says: none, all, or the earlier, those that ``order`` has from before
    row ``raw_R``.
    """
    low_R = tl.zeros(id_R.shape, tl.int32)
    high_R = low_R + m
    step = 0
    while step < steps:
        open_R = low_R < high_R
        middle_R = (low_R + high_R) // 2
        found_R = tl.load(ids + middle_R, mask=open_R, other=0)
        before_R = found_R < id_R
        if EQUAL == "all":
            before_R = found_R <= id_R
        if EQUAL == "earlier":
            from_R = tl.load(order + middle_R, mask=open_R, other=0)
            before_R = before_R | ((found_R == id_R) & (from_R < raw_R))
        low_R = tl.where(open_R & before_R, middle_R + 1, low_R)
        high_R = tl.where(open_R & ~before_R, middle_R, high_R)
        step += 1
    return low_R
