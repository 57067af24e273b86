"""Sums of exp(p x) for several powers p in one sweep, with gradients; in chunks, in plain torch.

For a loss that weighs its pairs by a power of their exps. As in ``pair_sums``, a loss is written as
a function of the sums. All powers and both sides share the products: 1 unit of work forward, 3
backward.

Shapes: n rows of this rank, N rows of a, M rows of b, D wide, K powers, R rows of a piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.losses.backends.all_pairs import (
    finalize_gradients,
    over_all_rows,
    own_rows,
    per_rank,
)
from contrastive.losses.backends.chunked_powers import PowerWeights
from contrastive.losses.backends.first_derivative_only import first_derivative_only
from contrastive.losses.backends.pair_sums import EMPTY, LineSums

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards, RowShards
    from contrastive.losses.backends.chunked import ChunkedBackend
    from contrastive.losses.backends.chunked_operators import ChunkedOperators
    from contrastive.losses.backends.pair_labels import PairLabels


def power_sums(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    powers: tuple[float, ...],
    backend: ChunkedBackend | ChunkedOperators,
    shards: PairShards | None = None,
) -> tuple[LineSums, LineSums]:
    """Return the sums of the rows of a and of the rows of b; arguments as in ``pair_sums``."""
    with torch.autocast(a.device.type, enabled=False):
        found = _PowerSums.apply(a, b, log_scale, labels, powers, backend, shards)
    sums = cast("tuple[Tensor, ...]", found)
    return LineSums(sums[0], sums[2], sums[1]), LineSums(sums[3], sums[5], sums[4])


class _PowerSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        labels: PairLabels,
        powers: tuple[float, ...],
        backend: ChunkedBackend | ChunkedOperators,
        shards: PairShards | None,
    ) -> tuple[Tensor, ...]:
        ctx.dtypes = a.dtype, b.dtype
        b = b if shards is None else shards.columns.all_gather(b)
        scale = log_scale.exp()
        rows, columns, exact = backend.power_sums(a, b, scale, labels, powers)
        if shards is not None:
            logs, positive = over_all_rows(shards.columns, torch.stack(columns[:2]), columns[2])
            columns = [*logs, positive]
        ctx.save_for_backward(a, b, scale, exact, *rows, *columns)
        ctx.rest = labels, powers, backend, shards
        if shards is not None:
            rows = [_all_gather(x, shards.rows) for x in rows]
        return tuple(x.clamp(min=EMPTY) if x.ndim == 2 else x for x in (*rows, *columns))

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, scale, exact, *sums = ctx.saved_tensors
        labels, powers, backend, shards = ctx.rest
        of_rows = outer[:3] if shards is None else [_own(x, shards.rows) for x in outer[:3]]
        with torch.autocast(a.device.type, enabled=False):
            weights = PowerWeights(*sums[:2], *of_rows), PowerWeights(*sums[3:5], *outer[3:])
            a_grad, b_grad = backend.power_gradients(
                a, b, scale, labels, powers, *weights, exact=exact
            )
            shared = None if shards is None else shards.columns
            b, b_grad = own_rows(b, b_grad, shared)
            found = finalize_gradients(
                backend,
                (a, a_grad, None, ctx.dtypes[0]),
                (b, b_grad, None, ctx.dtypes[1]),
                per_rank(scale.new_ones(()), shared),
            )
        return *found, None, None, None, None


def _all_gather(x: Tensor, rows: RowShards) -> Tensor:
    """Return the rows of all ranks, which are the last dimension."""
    return rows.all_gather(x.T.contiguous()).T if x.ndim == 2 else rows.all_gather(x)


def _own(x: Tensor, rows: RowShards) -> Tensor:
    """Return the rows of this rank, which are the last dimension."""
    return rows.own(x.T).T if x.ndim == 2 else rows.own(x)
