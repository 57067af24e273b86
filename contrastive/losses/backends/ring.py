r"""Several ranks without all-gather: the rows of b go round, each rank's from rank to rank.

A rank compares its rows of a with one rank's rows of b at a time, so that it never holds the rows
of all, nor gradients of them. What belongs to a row of b travels with it: the sums of its column
in the first round of InfoNCE; its column's statistics and its gradient in the second. The sigmoid
loss takes one round. (Ring attention: Liu et al. 2023, arXiv:2310.01889; the chunked loss of
SigLIP: Zhai et al. 2023, arXiv:2303.15343.)

With W ranks that have m rows of b each, D wide, of e bytes, a rank sends in a step

.. math:: (W - 1) m D e + 8 W m \;\text{(forward)} + (W - 1) m (D e + 12) + 4 W m D
          \;\text{(backward)}

bytes of InfoNCE, and ``(W - 1) m D e + 4 W m D`` of the sigmoid loss; beyond its own rows and their
gradients it holds those of two other ranks.

Shapes: N rows of a and M rows of b of this rank, D wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.distributed.collectives import pass_on
from contrastive.losses.backends.all_pairs import finalize_gradients, per_rank
from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.empty_shard import EmptyShardBackend
from contrastive.losses.backends.first_derivative_only import first_derivative_only
from contrastive.losses.backends.row_stats import RowStats, row_stats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.pair_labels import PairLabels


@dataclass(frozen=True)
class Ring:
    """The ranks in a circle, and what their rows are to each other."""

    shards: PairShards
    """The rows of a are all matched."""
    labels: PairLabels
    """Of the global batch."""

    def stops(self) -> Iterator[tuple[int, PairLabels]]:
        """Yield whose rows of b are here, the own first, and what they are to the rows of a."""
        rows, columns = self.shards.rows, self.shards.columns
        size, rank, labels = rows.group.size, rows.group.rank, self.labels
        a_ids = None if labels.a_ids_N is None else rows.of_rank(labels.a_ids_N, rank)
        for step in range(size):
            owner = (rank - step) % size
            yield (
                owner,
                replace(
                    labels,
                    offset=0
                    if owner == rank
                    else columns.counts[owner],  # beyond: none is a partner
                    a_ids_N=a_ids,
                    b_ids_M=None
                    if labels.b_ids_M is None
                    else columns.of_rank(labels.b_ids_M, owner),
                    row_count_N=rows.of_rank(labels.row_count_N, rank),
                    column_count_M=columns.of_rank(labels.column_count_M, owner),
                ),
            )

    def pass_on(self, x: Tensor, owner: int) -> Tensor:
        """Send what belongs to rows of ``owner`` to the next rank; return what comes instead."""
        columns = self.shards.columns
        comes = columns.counts[(owner - 1) % columns.group.size]
        return pass_on(x, comes, columns.group.process_group)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.shards.rows.group.size


def infonce(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    ring: Ring,
    *,
    sides: tuple[bool, bool],
    backend: LossBackend,
) -> Tensor:
    """Return ``functional.infonce``: 4 units of work.

    Args:
        a: ``[N, D]``.
        b: ``[M, D]``.
        log_scale: scalar.
        ring: the ranks.
        sides: whether rows choose, and whether columns do.
        backend: makes the passes.
    """
    with torch.autocast(a.device.type, enabled=False):
        return cast("Tensor", _InfoNCE.apply(a, b, log_scale, ring, sides, backend))


def sigmoid(
    a: Tensor, b: Tensor, log_scale: Tensor, bias: Tensor, ring: Ring, *, backend: LossBackend
) -> Tensor:
    """Return ``functional.sigmoid``: 3 units of work, all forward."""
    with torch.autocast(a.device.type, enabled=False):
        return cast("Tensor", _Sigmoid.apply(a, b, log_scale, bias, ring, backend))


def _backend(backend: LossBackend, block: Tensor) -> LossBackend:
    """Return what makes the passes over the rows that are here, which may be none."""
    return backend if len(block) else EmptyShardBackend()


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        ring: Ring,
        sides: tuple[bool, bool],
        backend: LossBackend,
    ) -> Tensor:
        scale, dtype = log_scale.exp(), accumulation_dtype(a, b)
        row_log_N = a.new_full((len(a),), -torch.inf, dtype=dtype)
        row_positive_N = a.new_zeros(len(a), dtype=dtype)
        # log and positive of the columns that are here
        column = torch.stack([b.new_full((len(b),), -torch.inf), b.new_zeros(len(b))], 1).to(dtype)
        block = b
        exact: list[Tensor] = []
        for owner, labels in ring.stops():
            sums = _backend(backend, block).sums(a, block, scale, labels, gradients=False)
            exact.append(sums.exact)
            row_log_N = torch.logaddexp(row_log_N, sums.row_log_N)
            row_positive_N = row_positive_N + sums.row_positive_N
            column[:, 0] = torch.logaddexp(column[:, 0], sums.column_log_M)
            column[:, 1] += sums.column_positive_M
            column = ring.pass_on(column, owner)
            if len(exact) < ring.size:
                block = ring.pass_on(block, owner)
        labels = ring.labels
        counts = labels.rows_with_positive, labels.columns_with_positive
        n_rows, n_columns = (x.to(dtype).clamp(min=1) for x in counts)
        unit = torch.minimum(n_rows, n_columns)
        weights = [unit / n * on for n, on in zip((n_rows, n_columns), sides, strict=True)]
        _, own = next(ring.stops())
        row_loss_N, rows = row_stats(row_log_N, row_positive_N, own.row_count_N, weights[0])
        column_log_M, column_positive_M = column.unbind(1)
        column_loss_M, columns = row_stats(
            column_log_M, column_positive_M, own.column_count_M, weights[1]
        )
        group = ring.shards.rows.group
        row_loss, column_loss = group.all_reduce_sum(row_loss_N.sum(), column_loss_M.sum())
        share = 1 / sum(sides)
        ctx.save_for_backward(a, b, scale, share / unit, *exact)
        ctx.rest = ring, backend, rows, columns
        return share * (weights[0] * row_loss + weights[1] * column_loss) / unit

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, scale, factor, *exact = ctx.saved_tensors
        ring, backend, rows, columns = ctx.rest
        a_grad = a.new_zeros(a.shape, dtype=accumulation_dtype(a, b))
        b_grad = b.new_zeros(b.shape, dtype=a_grad.dtype)
        fields = columns.log_norm, columns.log_norm_positives, columns.positive_weight
        block, stats = b, torch.stack(fields, 1)
        with torch.autocast(a.device.type, enabled=False):
            for step, (owner, labels) in enumerate(ring.stops()):
                of_a, of_block = _backend(backend, block).gradients(
                    a,
                    block,
                    scale,
                    labels,
                    rows=rows,
                    columns=RowStats(*stats.T.contiguous()),
                    exact=exact[step],
                )
                a_grad += of_a
                b_grad = ring.pass_on(b_grad + of_block, owner)
                if step + 1 < ring.size:
                    block, stats = ring.pass_on(block, owner), ring.pass_on(stats, owner)
            found = finalize_gradients(
                backend,
                (a, a_grad, None, a.dtype),
                (b, b_grad, None, b.dtype),
                per_rank(factor * outer[0], ring.shards.rows),
            )
        return *found, None, None, None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        bias: Tensor,
        ring: Ring,
        backend: LossBackend,
    ) -> Tensor:
        scale, dtype = log_scale.exp(), accumulation_dtype(a, b)
        gradients = any(ctx.needs_input_grad)
        total, bias_grad = (a.new_zeros((), dtype=dtype) for _ in range(2))
        a_grad, b_grad = (x.new_zeros(x.shape, dtype=dtype) for x in (a, b))
        block = b
        for step, (owner, labels) in enumerate(ring.stops()):
            loss, of_a, of_block, of_bias = _backend(backend, block).sigmoid(
                a, block, scale, bias, labels, gradients=gradients
            )
            total = total + loss
            if gradients:
                a_grad += of_a
                bias_grad = bias_grad + of_bias
                b_grad = ring.pass_on(b_grad + of_block, owner)
            if step + 1 < ring.size:
                block = ring.pass_on(block, owner)
        (total,) = ring.shards.rows.group.all_reduce_sum(total)
        factor = 1 / ring.labels.matched_pairs.to(dtype)
        ctx.save_for_backward(a, b, a_grad, b_grad, bias_grad, factor)
        ctx.rest = ring, backend
        return total * factor

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, a_grad, b_grad, bias_grad, factor = ctx.saved_tensors
        ring, backend = ctx.rest
        with torch.autocast(a.device.type, enabled=False):
            factor = per_rank(factor * outer[0], ring.shards.rows)
            found = finalize_gradients(
                backend, (a, a_grad, None, a.dtype), (b, b_grad, None, b.dtype), factor
            )
        return *found, bias_grad * factor, None, None
