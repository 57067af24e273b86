"""The two passes over the logit matrix block by block: launches, and the products between them.

Shapes: N rows of a, M rows of b, D wide, S blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from contrastive.losses.backends.products import multiply
from contrastive.losses.backends.triton import launch_pairs, launch_rows
from contrastive.losses.backends.triton.blocks import padded, slices, tiles_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from contrastive.losses.backends.triton.blocks import Pairs
    from contrastive.losses.backends.triton.launch_pairs import Kernels


@dataclass(frozen=True)
class Logs:
    """What the first sweep finds; all fp32."""

    row_log: Tensor
    column_log: Tensor
    """No number unless columns were summed."""
    row_positive: Tensor | None
    """Sums of positive logits; of groups only."""
    column_positive: Tensor | None


def first_sweep(
    pairs: Pairs,
    kernels: Kernels,
    *,
    shift: Tensor,
    exact: Tensor,
    exps: Tensor | None,
    columns: bool = True,
) -> Logs:
    """Return the logarithms of the sums of rows and of columns.

    Args:
        pairs: of whose rows a block at a time is swept.
        kernels: that do it.
        shift: of all exponents.
        exact: set if sums were taken again; it is 0.
        exps: what the exps are written to.
        columns: whether to sum columns.
    """
    n, m = pairs.shape
    groups = pairs.kind == "groups"
    row_log, column_log = pairs.buffer(n), pairs.buffer(m)
    row_positive, column_positive = (pairs.buffer(x) if groups else None for x in (n, m))
    tile = kernels.how.tile_of("sums", pairs)
    blocks = slices(n, kernels.how.summed_rows(pairs, columns=columns))
    largest = pairs.block(blocks[0])
    down, across = tiles_of(largest, tile)
    row_parts = pairs.buffer(across * len(largest.a))
    column_parts = pairs.buffer(down * m if columns else 0)
    row_own, column_own = (
        torch.empty_like(x) if groups else None for x in (row_parts, column_parts)
    )
    for here in blocks:
        block = pairs.block(here)
        down, across = tiles_of(block, tile)
        kernels.sums(
            block,
            shift=shift,
            row_sum=row_parts,
            column_sum=column_parts,
            row_positive=row_own,
            column_positive=column_own,
            exps=None if exps is None else exps[here],
            columns=columns,
        )
        row_positive_here = None if row_positive is None else row_positive[here]
        launch_rows.fold(
            (row_parts, row_log[here], row_own, row_positive_here),
            (column_parts, column_log, column_own, column_positive) if columns else None,
            (across, down),
            shift=shift,
            exact=exact,
            terms=(m, n),
            first=here.start == 0,
            last=here.stop == n,
        )
    kernels.peaks(pairs, exact=exact, row_log=row_log, column_log=column_log if columns else None)
    return Logs(row_log, column_log, row_positive, column_positive)


def second_sweep(
    pairs: Pairs,
    kernels: Kernels,
    *,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    shift: Tensor,
    exact: Tensor,
    exps: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a`` of InfoNCE, see ``gradients``.

    Args:
        pairs: all of them.
        kernels: that write G.
        rows: the fields of ``RowStats`` in order.
        columns: likewise.
        shift: of all exponents.
        exact: whether it does not do for all.
        exps: what ``first_sweep`` has kept, if anything.
    """

    def write(g: Tensor, here: slice, there: slice) -> None:
        block = pairs.block(here, there)
        sides = {"rows": [x[here] for x in rows], "columns": [x[there] for x in columns]}
        if exps is None:
            kernels.weigh(block, g, shift=shift, **sides)
        else:
            kernels.rescale(block, exps[here, there.start :], g, shift=shift, **sides)
        kernels.complete(block, g, exact=exact, **sides)

    return gradients(pairs, kernels, write)


def gradients(
    pairs: Pairs, kernels: Kernels, write: Callable[[Tensor, slice, slice], None]
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``, for G that ``write`` writes in blocks.

    In fp16, times ``LIFT`` instead of s; see ``unlift``.
    """
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
    return a_grad, b_grad


def unlift(grads: tuple[Tensor, Tensor], pairs: Pairs, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """Return gradients without what they were multiplied by in fp16."""
    if pairs.a.dtype == torch.float16:  # else G was written times the scale
        factor = kernels.scale / launch_pairs.LIFT
        for grad in grads:
            grad.mul_(factor)
    return grads
