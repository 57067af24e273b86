"""The two passes over the logit matrix block by block: launches, and the products between them.

Shapes: N rows of a, M rows of b, D wide, S blocks of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.backends.products import multiply
from contrastive.losses.backends.triton import launch_pairs, launch_rows, tiles
from contrastive.losses.backends.triton.blocks import padded, slices, tiles_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from contrastive.losses.backends.triton.blocks import Pairs
    from contrastive.losses.backends.triton.launch_pairs import Kernels


def put(
    kernels: Kernels, pairs: Pairs, g: Tensor, *, rows: Sequence[Tensor], columns: Sequence[Tensor]
) -> None:
    """Write G of the matched pairs from their row statistics; with groups it is there already."""
    if pairs.kind != "groups":
        rows_K, columns_K = pairs.matched
        kernels.put(pairs, g, -(rows[2][rows_K] + columns[2][columns_K]))


def first_sweep(
    pairs: Pairs,
    kernels: Kernels,
    *,
    exps: Tensor | None,
    shift: Tensor | None = None,
    columns: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the sums of rows and of columns, their positives, whether exact, and the shift.

    Args:
        pairs: of whose rows a block at a time is swept.
        kernels: that do it.
        exps: what the exps are written to.
        shift: if it is known.
        columns: whether to sum columns; else what is returned of them is no number.
    """
    n, m = pairs.shape
    a = pairs.a
    shift = launch_rows.shift(a, pairs.b, kernels.scale) if shift is None else shift
    exact = torch.zeros((), dtype=torch.uint8, device=a.device)
    row_log, column_log = pairs.buffer(n), pairs.buffer(m)
    row_positive, column_positive = (torch.zeros(x, device=a.device) for x in (n, m))
    groups = pairs.kind == "groups"
    both = [kernels.how.tile_of(x, pairs) for x in ("sums", "peaks")]
    blocks = slices(n, kernels.how.rows or tiles.BLOCK_ROWS)
    largest = pairs.block(blocks[0])
    down, across = (max(x) for x in zip(*(tiles_of(largest, x) for x in both), strict=True))
    row_parts = pairs.buffer(across * len(largest.a))
    column_parts = pairs.buffer(down * m)
    row_positive_parts, column_positive_parts = (
        (torch.empty_like(row_parts), torch.empty_like(column_parts)) if groups else (None, None)
    )
    folded_SM, folded_positive_SM = (pairs.buffer((len(blocks), m)) for _ in range(2))

    for fallback, tile in zip((False, True), both, strict=True):
        given: dict[str, Any] = {"shift": shift, "exact": exact, "fallback": fallback}
        for s, here in enumerate(blocks):
            block = pairs.block(here)
            down, across = tiles_of(block, tile)
            if fallback:
                kernels.peaks(
                    block, exact=exact, row_sum=row_parts, column_sum=column_parts, columns=columns
                )
            else:
                kernels.sums(
                    block,
                    shift=shift,
                    row_sum=row_parts,
                    column_sum=column_parts,
                    row_positive=row_positive_parts,
                    column_positive=column_positive_parts,
                    exps=None if exps is None else exps[here],
                    columns=columns,
                )
            launch_rows.fold_logs(row_parts, across, row_log[here], terms=m, **given)
            if columns and fallback:
                launch_rows.fold_logs(
                    column_parts, down, folded_SM[s], terms=n, natural=False, **given
                )
            elif columns:
                launch_rows.fold(column_parts, down, folded_SM[s])
            if (
                row_positive_parts is not None
                and column_positive_parts is not None
                and not fallback
            ):
                launch_rows.fold(row_positive_parts, across, row_positive[here])
                launch_rows.fold(column_positive_parts, down, folded_positive_SM[s])
        if columns:
            launch_rows.fold_logs(folded_SM, len(blocks), column_log, terms=n, **given)
        if groups and not fallback:
            launch_rows.fold(folded_positive_SM, len(blocks), column_positive)
    if not groups:
        rows_K, columns_K = pairs.matched
        row_positive[rows_K] = column_positive[columns_K] = kernels.matched_logits(pairs)
    return row_log, column_log, row_positive, column_positive, exact, shift


def gradients(
    pairs: Pairs, kernels: Kernels, write: Callable[[Tensor, slice, slice], None]
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``, for G that ``write`` writes in blocks."""
    n, m = pairs.shape
    a_grad, b_grad = pairs.buffer(pairs.a.shape), pairs.buffer(pairs.b.shape)
    rows, columns = min(n, kernels.how.chunk(pairs)), min(m, kernels.how.columns or m)
    buffer = pairs.buffer(rows * padded(columns), pairs.a.dtype)
    for here in slices(n, rows):
        for there in slices(m, columns):
            down, across = here.stop - here.start, there.stop - there.start
            g = buffer[: down * padded(across)].view(down, padded(across))
            write(g, here, there)
            g = g[:, :across]
            multiply(g, pairs.b[there], out=a_grad[here], add=there.start > 0)
            multiply(g.T, pairs.a[here], out=b_grad[there], add=here.start > 0)
    if pairs.a.dtype == torch.float16:  # else G was written times the scale
        factor = kernels.scale / launch_pairs.LIFT
        a_grad.mul_(factor)
        b_grad.mul_(factor)
    return a_grad, b_grad
