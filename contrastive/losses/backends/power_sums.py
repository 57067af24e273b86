"""Sums of exp(p x) for several powers p in one sweep, with gradients; in chunks, in plain torch.

For a loss that weighs its pairs by a power of their exps. As in ``pair_sums``, a loss is written as
a function of the sums. All powers and both sides share the products: 1 unit of work forward, 3
backward.

Shapes: n rows of this rank, N rows of a, M rows of b, D wide, K powers, R rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable

from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.chunked import LOST, ChunkedBackend, shift_of
from contrastive.losses.backends.pair_sums import EMPTY, LineSums

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards, RowShards
    from contrastive.losses.backends.chunked import Piece
    from contrastive.losses.backends.pair_labels import PairLabels


def power_sums(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    powers: tuple[float, ...],
    backend: ChunkedBackend,
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
        backend: ChunkedBackend,
        shards: PairShards | None,
    ) -> tuple[Tensor, ...]:
        ctx.dtypes = a.dtype, b.dtype
        b = b if shards is None else shards.columns.all_gather(b)
        scale = log_scale.exp()
        rows, columns, exact = _sums(a, b, scale, labels, powers, backend)
        if shards is not None:
            columns = _over_all_rows(columns, shards.columns)
        ctx.save_for_backward(a, b, scale, *rows, *columns)
        ctx.rest = labels, powers, backend, shards, exact
        if shards is not None:
            rows = [_all_gather(x, shards.rows) for x in rows]
        return tuple(x.clamp(min=EMPTY) if x.ndim == 2 else x for x in (*rows, *columns))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, scale, *sums = ctx.saved_tensors
        labels, powers, backend, shards, exact = ctx.rest
        of_rows = outer[:3] if shards is None else [_own(x, shards.rows) for x in outer[:3]]
        with torch.autocast(a.device.type, enabled=False):
            rows = _Weights(sums[0], sums[1], *of_rows)
            columns = _Weights(sums[3], sums[4], *outer[3:])
            a_grad, b_grad = _gradients(a, b, scale, labels, powers, backend, rows, columns, exact)
            factor = scale.new_ones(())
            if shards is not None:
                b, b_grad = shards.columns.own(b), shards.columns.reduce_scatter(b_grad)
                factor = factor * shards.rows.group.size
            a_grad, scale_grad = backend.finalize_gradient(a, a_grad, factor, None, ctx.dtypes[0])
            b_grad, _ = backend.finalize_gradient(b, b_grad, factor, None, ctx.dtypes[1])
        return a_grad, b_grad, scale_grad, None, None, None, None


@dataclass(frozen=True)
class _Weights:
    """Sums of the rows (or columns), ``[K, N]``, and the gradients that they have."""

    negative_logs: Tensor
    positive_logs: Tensor
    negative_outer: Tensor
    positive_outer: Tensor
    target_outer: Tensor
    """``[N]``, of the sums of the positives' logits."""

    def shifted(self, k: int, shift: Tensor) -> Tensor:
        """Return ``[N]``, what multiplies exp(p x - shift) of a negative; 0 for an empty sum."""
        outer_N = self.negative_outer[k]
        return torch.where(outer_N == 0, 0, outer_N * torch.exp(shift - self.negative_logs[k]))


def _sums(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: tuple[float, ...],
    backend: ChunkedBackend,
) -> tuple[list[Tensor], list[Tensor], bool]:
    """Return the sums of the rows and of the columns, and whether one shift would lose terms.

    Each has ``[K, N]`` logarithms of the sums over negatives, those over positives, and ``[N]``
    sums of the positives' logits.
    """
    dtype, k_powers = accumulation_dtype(a, b), range(len(powers))
    shifts = [shift_of(a, b, scale * p) for p in powers]
    (row, row_same), (column, column_same) = (
        scale.new_zeros(2, len(powers), len(x), dtype=dtype) for x in (a, b)
    )
    row_positive_N, column_positive_M = (scale.new_zeros(len(x), dtype=dtype) for x in (a, b))

    def add(piece: Piece) -> None:
        here, i, j = piece.here, piece.i_P, piece.j_P
        row_positive_N[here].index_add_(0, i, piece.positive_P)
        column_positive_M.index_add_(0, j, piece.positive_P)
        for k in k_powers:
            exps_RM = torch.exp(piece.x_RM * powers[k] - shifts[k])
            piece.leave_out(0, of=exps_RM)
            row[k, here] = exps_RM.sum(1)
            column[k] += exps_RM.sum(0)
            term_P = torch.exp(piece.positive_P * powers[k] - shifts[k])
            row_same[k, here].index_add_(0, i, term_P)
            column_same[k].index_add_(0, j, term_P)

    backend.sweep(a, b, scale, labels, add, gradients=False)
    least = torch.finfo(dtype).tiny / LOST
    enough = [
        (row >= least * len(b)).all(),
        (column >= least * len(a)).all(),
        ((row_same >= least * len(b)) | (labels.row_count_N == 0)).all(),
        ((column_same >= least * len(a)) | (labels.column_count_M == 0)).all(),
    ]
    exact = not bool(torch.stack(enough).all())
    if exact:
        row, row_same, column, column_same = _exact_logs(a, b, scale, labels, powers, backend)
    else:
        shift_K = torch.stack(shifts)[:, None]
        row, row_same, column, column_same = (
            x.log_().add_(shift_K) for x in (row, row_same, column, column_same)
        )
    return [row, row_same, row_positive_N], [column, column_same, column_positive_M], exact


def _exact_logs(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: tuple[float, ...],
    backend: ChunkedBackend,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the logarithms of all sums, each relative to its own maximum."""
    (row, row_same), (column, column_same) = (
        scale.new_full((2, len(powers), len(x)), -torch.inf, dtype=accumulation_dtype(a, b))
        for x in (a, b)
    )

    def add(piece: Piece) -> None:
        for k, p in enumerate(powers):
            negative_RM = piece.x_RM * p
            piece.leave_out(-torch.inf, of=negative_RM)
            positive_RM = torch.full_like(negative_RM, -torch.inf)
            positive_RM[piece.i_P, piece.j_P] = piece.positive_P * p
            for x_RM, of_rows, of_columns in (
                (negative_RM, row, column),
                (positive_RM, row_same, column_same),
            ):
                of_rows[k, piece.here] = x_RM.logsumexp(1)
                of_columns[k] = torch.logaddexp(of_columns[k], x_RM.logsumexp(0))

    backend.sweep(a, b, scale, labels, add, gradients=False)
    return row, row_same, column, column_same


def _gradients(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: tuple[float, ...],
    backend: ChunkedBackend,
    rows: _Weights,
    columns: _Weights,
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``."""
    shifts = [shift_of(a, b, scale * p) for p in powers]

    def weigh_(piece: Piece) -> None:
        here, i, j, x_RM = piece.here, piece.i_P, piece.j_P, piece.x_RM
        g_RM = torch.zeros_like(x_RM)
        g_P = rows.target_outer[here][i] + columns.target_outer[j]
        for k, p in enumerate(powers):
            if exact:
                for logs, outer in (
                    (rows.negative_logs[k, here, None], rows.negative_outer[k, here, None]),
                    (columns.negative_logs[k], columns.negative_outer[k]),
                ):
                    g_RM += p * torch.where(outer == 0, 0, outer * torch.exp(x_RM * p - logs))
            else:
                weight_RM = rows.shifted(k, shifts[k])[here, None] + columns.shifted(k, shifts[k])
                g_RM += weight_RM.mul_(p) * torch.exp(x_RM * p - shifts[k])
            for side, at in ((rows, i + here.start), (columns, j)):
                exps_P = torch.exp(piece.positive_P * p - side.positive_logs[k, at])
                outer_P = side.positive_outer[k, at]
                g_P = g_P + p * torch.where(outer_P == 0, 0, outer_P * exps_P)
        x_RM.copy_(g_RM)
        piece.leave_out(0)
        x_RM[i, j] = g_P

    return backend.sweep(a, b, scale, labels, weigh_, gradients=True)


def _over_all_rows(sums: list[Tensor], shared: RowShards) -> list[Tensor]:
    """Return the sums of the columns over the rows of all ranks."""
    logs, group = torch.stack(sums[:2]), shared.group
    peak = group.all_reduce_max(logs)
    peak = peak.masked_fill(peak == -torch.inf, 0)
    total, positive_M = group.all_reduce_sum((logs - peak).exp(), sums[2])
    return [*(total.log() + peak), positive_M]


def _all_gather(x: Tensor, rows: RowShards) -> Tensor:
    """Return the rows of all ranks, which are the last dimension."""
    return rows.all_gather(x.T.contiguous()).T if x.ndim == 2 else rows.all_gather(x)


def _own(x: Tensor, rows: RowShards) -> Tensor:
    """Return the rows of this rank, which are the last dimension."""
    return rows.own(x.T).T if x.ndim == 2 else rows.own(x)
