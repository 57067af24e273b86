"""Sums over the pairs of each row and each column, with gradients: what losses of rows are made of.

A loss that is a function of these O(N + M) numbers is written as such, and autograd does the rest;
the pairs themselves are visited by the passes of a ``LossBackend``, in memory that does not grow
with N x M. (``all_pairs`` has the gradients of InfoNCE and of the sigmoid loss in closed form.)

Of several ranks, each compares its own rows with those of all; every rank gets all sums, and the
loss, in full. Gradients are as ``distributed.global_batch`` says.

Shapes: n rows of this rank, N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.losses.backends.all_pairs import (
    finalize_gradients,
    over_all_rows,
    own_rows,
    per_rank,
)
from contrastive.losses.backends.first_derivative_only import first_derivative_only
from contrastive.losses.backends.pair_labels import PairLabels
from contrastive.losses.backends.row_stats import RowStats

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards, RowShards
    from contrastive.losses import Positives
    from contrastive.losses.backends.base import LossBackend

EMPTY = -1e30  # logarithm of an empty sum: finite, so that no gradient is NaN


@dataclass(frozen=True)
class LineSums:
    """What is known of each row, or of each column; fp32, or float64 for float64 embeddings."""

    logs: Tensor
    """``[K, N]`` for K powers p: the logarithm of the sum of exp(p x) over its negatives, about
    ``EMPTY`` without any. Of ``pair_sums`` and ``own_sums`` K is 1, and the sum is over its
    positives too where ``PairLabels`` says that it has more than one."""
    positive: Tensor
    """``[N]``, the sum of the logits of its positives; 0 without any."""
    positive_logs: Tensor | None = None
    """``[K, N]``, as ``logs``, over its positives; of ``power_sums`` only."""

    def in_order(self, order: Tensor | None) -> LineSums:
        """Return the sums of other rows first; as they are if None."""
        if order is None:
            return self
        positive_logs = None if self.positive_logs is None else self.positive_logs[:, order]
        return LineSums(self.logs[:, order], self.positive[order], positive_logs)


def pair_sums(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    backend: LossBackend,
    shards: PairShards | None = None,
) -> tuple[LineSums, LineSums]:
    """Return the sums of the rows of a, ``[N]``, and of the rows of b, ``[M]``.

    1 unit of work forward, 3 backward. A gradient of ``logs`` must have one sign for all rows and
    columns, as that of a loss that grows, or falls, with all of them.

    Args:
        a: ``[n, D]``.
        b: ``[m, D]``.
        log_scale: scalar.
        labels: of this rank's rows of a to all rows of b.
        backend: makes the passes.
        shards: how the global batch is sharded over ranks; the rows of a are all matched.
    """
    with torch.autocast(a.device.type, enabled=False):
        found = _PairSums.apply(a, b, log_scale, labels, backend, shards)
    row_log, row_positive, column_log, column_positive = cast("tuple[Tensor, ...]", found)
    return LineSums(row_log[None], row_positive), LineSums(column_log[None], column_positive)


def own_sums(
    a: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    backend: LossBackend,
    rows: RowShards | None = None,
) -> LineSums:
    """Return the sums of the rows of a, ``[N]``, over the other rows of a.

    The logits are symmetric, so half of them are enough: 1/2 unit of work forward, 3/2 backward.

    Args:
        a: ``[n, D]``.
        log_scale: scalar.
        labels: of this rank's rows of a to all rows of a; a row is not its own candidate.
        backend: makes the passes.
        rows: how the rows are sharded over ranks.
    """
    with torch.autocast(a.device.type, enabled=False):
        found = _OwnSums.apply(a, log_scale, labels, backend, rows)
    log, positive = cast("tuple[Tensor, Tensor]", found)
    return LineSums(log[None], positive)


def own_labels(
    x: Tensor, ids: Tensor | None, rows: RowShards | None, *, positives: Positives
) -> tuple[PairLabels, PairLabels, Tensor | None]:
    """Return what the rows of one side are to each other.

    Args:
        x: ``[N, D]``, the rows of this rank.
        ids: ``[N]``, theirs.
        rows: which rank has which rows, if there are several.
        positives: ``mask``, equal ids are left out; ``multi``, they are positives, but oneself.

    Returns:
        The labels of the whole side, one rank's rows after the other's; those of this rank's rows;
        and in which order the rows of the global batch are among the former, unless it is the same.
    """
    if rows is None:
        labels = PairLabels.of(len(x), len(x), ids, ids, positives=positives, device=x.device)
        labels = replace(labels, without_self=True)
        return labels, labels, None
    ranks = rows.contiguous
    every = None if ids is None else ranks.all_gather(ids)
    n = ranks.total
    labels = PairLabels.of(n, n, every, every, positives=positives, device=x.device)
    labels = replace(labels, without_self=True)
    mine = labels.block(ranks.start, ranks.start + len(x))
    return labels, mine, None if rows.all_matched else rows.order.to(x.device)


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        labels: PairLabels,
        backend: LossBackend,
        shards: PairShards | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.dtypes = a.dtype, b.dtype
        b = b if shards is None else shards.columns.all_gather(b)
        scale = log_scale.exp()
        sums = backend.sums(a, b, scale, labels, gradients=any(ctx.needs_input_grad))
        columns = None if shards is None else shards.columns
        column_log, column_positive = over_all_rows(
            columns, sums.column_log_M, sums.column_positive_M
        )
        ctx.save_for_backward(a, b, scale, sums.row_log_N, column_log, sums.exact, sums.kept)
        ctx.rest = labels, backend, shards
        row = (sums.row_log_N, sums.row_positive_N)
        if shards is not None:
            row = tuple(shards.rows.all_gather(x) for x in row)
        return row[0].clamp(min=EMPTY), row[1], column_log.clamp(min=EMPTY), column_positive

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, scale, row_log, column_log, exact, kept = ctx.saved_tensors
        labels, backend, shards = ctx.rest
        row_outer, row_positive_outer, column_outer, column_positive_outer = outer
        # the sign of all, so that the logarithm of each weight is that of a positive number
        sign = torch.where(row_outer.sum() + column_outer.sum() < 0, -1.0, 1.0)
        if shards is not None:
            row_outer, row_positive_outer = map(shards.rows.own, (row_outer, row_positive_outer))
        rows = _stats(row_log, row_outer, row_positive_outer, labels.row_count_N, sign)
        columns = _stats(
            column_log, column_outer, column_positive_outer, labels.column_count_M, sign
        )
        with torch.autocast(a.device.type, enabled=False):
            a_grad, b_grad = backend.gradients(
                a,
                b,
                scale,
                labels,
                rows=rows,
                columns=columns,
                exact=exact,
                kept=kept,
            )
            shared = None if shards is None else shards.columns
            b, b_grad = own_rows(b, b_grad, shared)
            found = finalize_gradients(
                backend,
                (a, a_grad, None, ctx.dtypes[0]),
                (b, b_grad, None, ctx.dtypes[1]),
                per_rank(sign, shared),
            )
        return *found, None, None, None


class _OwnSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        log_scale: Tensor,
        labels: PairLabels,
        backend: LossBackend,
        shared: RowShards | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype = a.dtype
        everything = a if shared is None else shared.all_gather(a)
        scale = log_scale.exp()
        sums = backend.own_sums(a, everything, scale, labels)
        logs = sums.row_log_N if shared is None else shared.all_gather(sums.row_log_N)
        positive = sums.row_positive_N
        positive = positive if shared is None else shared.all_gather(positive)
        ctx.save_for_backward(a, everything, scale, logs, sums.exact)
        ctx.rest = labels, backend, shared
        return logs.clamp(min=EMPTY), positive

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, everything, scale, logs, exact = ctx.saved_tensors
        labels, backend, shared = ctx.rest
        log_outer, positive_outer = outer
        sign = torch.where(log_outer.sum() < 0, -1.0, 1.0)
        everyone = own = _stats(logs, log_outer, positive_outer, labels.column_count_M, sign)
        if shared is not None:
            log, log_outer, positive_outer = map(shared.own, (logs, log_outer, positive_outer))
            own = _stats(log, log_outer, positive_outer, labels.row_count_N, sign)
        with torch.autocast(a.device.type, enabled=False):
            grad = backend.own_gradient(
                a, everything, scale, labels, rows=own, columns=everyone, exact=exact
            )
            grad, dots = backend.finalize_gradient(a, grad, per_rank(sign, shared), None, ctx.dtype)
        return grad, dots / 2, None, None, None  # each pair is in the gradients of two rows


def _stats(
    log: Tensor, log_outer: Tensor, positive_outer: Tensor, count: Tensor, sign: Tensor
) -> RowStats:
    """Return what gives each pair the gradient that the sums of its row (or column) have."""
    log_norm = log - (log_outer * sign).log()
    log_norm = log_norm.masked_fill(log_outer == 0, torch.inf)
    return RowStats(log_norm, log_norm.masked_fill(count <= 1, torch.inf), -positive_outer * sign)
