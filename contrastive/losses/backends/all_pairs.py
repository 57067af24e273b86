r"""Losses over all pairs of a batch by passes over the logit matrix that never hold all of it.

InfoNCE takes two passes. With logits ``x`` (``functional.similarity``), the first gives each row
and each column two numbers, its log-sum-exp and the sum of its positive logits; from them follow
the loss and, in O(N + M), what the second pass needs to recompute the gradient of any pair:

.. math:: G_{ij} = e^{x_{ij} - r_i} + e^{x_{ij} - c_j} \quad (\text{negatives}), \qquad
          G_{ij} = e^{x_{ij} - r'_i} + e^{x_{ij} - c'_j} - p_i - q_j \quad (\text{positives})

``r`` (``row_stats.RowStats.log_norm``) is the logarithm of a row's softmax denominator minus that
of the row's weight, infinite for a row that does not count; ``r'`` (``log_norm_positives``)
equals r where a row has several positives and is infinite where it has one; ``p``
(``positive_weight``) is the gradient's weight of a positive. With one positive,
``p = sigmoid(log(sum over the others) - x_p)``: nothing cancels, so loss and gradient keep their
relative precision when they are tiny. c, c', q are the same of a column. Then

.. math:: \partial L / \partial a = f \, s \, G b, \quad \partial L / \partial b = f \, s \, G^T a,
          \quad \partial L / \partial \log s = \sum_i a_i \cdot \partial L / \partial a_i

with ``s = exp(log_scale)`` and one factor f for all, so that G is of the order of 1.

A ``LossBackend`` makes these passes; everything of O(N + M) is here, once, for all backends. So is
the work of several ranks: each has some rows of both sides, compares its rows of a with the rows of
b of all ranks, and all-reduces the columns' sums and gradients.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.losses.backends.first_derivative_only import first_derivative_only
from contrastive.losses.backends.row_stats import row_stats

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import RowShards
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.pair_labels import PairLabels

    Side = tuple[Tensor, Tensor, Tensor | None, torch.dtype]


def infonce(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    backend: LossBackend,
    normalize: bool = False,
    columns: RowShards | None = None,
) -> Tensor:
    """Return the symmetric ``functional.infonce``: 1 unit of work forward, 3 backward.

    A unit is ``2 N M D`` floating-point operations, one product of all pairs.

    Args:
        a: ``[N, D]``.
        b: ``[M, D]``.
        log_scale: scalar.
        labels: of the rows of a to all rows of b.
        backend: makes the passes.
        normalize: give the rows length 1 first.
        columns: which rank has which rows of b, if there are several; ``b`` holds this rank's.
    """
    with torch.autocast(a.device.type, enabled=False):
        return cast("Tensor", _InfoNCE.apply(a, b, log_scale, labels, backend, normalize, columns))


def one_sided(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    *,
    backend: LossBackend,
    normalize: bool = False,
    columns: RowShards | None = None,
) -> Tensor:
    """Return ``functional.infonce`` of the rows of a alone: 3 units of work, all forward."""
    with torch.autocast(a.device.type, enabled=False):
        out = _OneSweep.apply(a, b, log_scale, None, labels, backend, normalize, columns)
        return cast("Tensor", out)


def sigmoid(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    labels: PairLabels,
    *,
    backend: LossBackend,
    normalize: bool = False,
    columns: RowShards | None = None,
) -> Tensor:
    """Return ``functional.sigmoid``: 3 units of work, all forward."""
    with torch.autocast(a.device.type, enabled=False):
        out = _OneSweep.apply(a, b, log_scale, bias, labels, backend, normalize, columns)
        return cast("Tensor", out)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        labels: PairLabels,
        backend: LossBackend,
        normalize: bool,
        shared: RowShards | None,
    ) -> Tensor:
        ctx.dtypes = a.dtype, b.dtype
        a, a_length, b, b_length = _units(a, b, backend, normalize=normalize)
        b = b if shared is None else shared.all_gather(b)  # kept: nothing is freed before backward
        scale = log_scale.exp()
        sums = backend.sums(a, b, scale, labels, gradients=any(ctx.needs_input_grad))

        counts = labels.rows_with_positive, labels.columns_with_positive
        n_rows, n_columns = (x.to(sums.row_log_N.dtype).clamp(min=1) for x in counts)
        unit = torch.minimum(n_rows, n_columns)
        row_loss_N, rows = row_stats(
            sums.row_log_N, sums.row_positive_N, labels.row_count_N, unit / n_rows
        )
        column_log_M, row_loss, column_positive_M = over_all_rows(
            shared, sums.column_log_M, row_loss_N.sum(), sums.column_positive_M
        )
        column_loss_M, columns = row_stats(
            column_log_M, column_positive_M, labels.column_count_M, unit / n_columns
        )
        ctx.save_for_backward(a, a_length, b, b_length, scale, 0.5 / unit, sums.exact, sums.kept)
        ctx.rest = labels, backend, rows, columns, shared
        return (row_loss / n_rows + column_loss_M.sum() / n_columns) / 2

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, a_length, b, b_length, scale, factor, exact, kept = ctx.saved_tensors
        labels, backend, rows, columns, shared = ctx.rest
        with torch.autocast(a.device.type, enabled=False):
            a_grad, b_grad = backend.gradients(
                a, b, scale, labels, rows=rows, columns=columns, exact=exact, kept=kept
            )
            b, b_grad = own_rows(b, b_grad, shared)
            found = finalize_gradients(
                backend,
                (a, a_grad, a_length, ctx.dtypes[0]),
                (b, b_grad, b_length, ctx.dtypes[1]),
                per_rank(factor * outer[0], shared),
            )
        return *found, None, None, None, None


class _OneSweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        bias: Tensor | None,
        labels: PairLabels,
        backend: LossBackend,
        normalize: bool,
        shared: RowShards | None,
    ) -> Tensor:
        gradients = any(ctx.needs_input_grad)
        ctx.dtypes = a.dtype, b.dtype
        a, a_length, b, b_length = _units(a, b, backend, normalize=normalize)
        b_all = b if shared is None else shared.all_gather(b)
        scale = log_scale.exp()
        if bias is None:
            total, a_grad, b_grad = backend.one_sided(a, b_all, scale, labels, gradients=gradients)
            bias_grad = None
            factor = 1 / labels.rows_with_positive.to(total.dtype).clamp(min=1)
        else:
            total, a_grad, b_grad, bias_grad = backend.sigmoid(
                a, b_all, scale, bias, labels, gradients=gradients
            )
            factor = 1 / labels.matched_pairs.to(total.dtype)
        if shared is not None:
            (total,) = shared.group.all_reduce_sum(total)
            b_grad = shared.reduce_scatter(b_grad) if gradients else b_grad
        ctx.save_for_backward(a, a_length, b, b_length, a_grad, b_grad, bias_grad, factor)
        ctx.rest = backend, shared
        return total * factor

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, a_length, b, b_length, a_grad, b_grad, bias_grad, factor = ctx.saved_tensors
        backend, shared = ctx.rest
        with torch.autocast(a.device.type, enabled=False):
            factor = per_rank(factor * outer[0], shared)
            found = finalize_gradients(
                backend,
                (a, a_grad, a_length, ctx.dtypes[0]),
                (b, b_grad, b_length, ctx.dtypes[1]),
                factor,
            )
            bias_grad = None if bias_grad is None else bias_grad * factor
        return *found, bias_grad, None, None, None, None


def _units(
    a: Tensor, b: Tensor, backend: LossBackend, *, normalize: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    if not normalize:
        return a, None, b, None
    return *backend.normalize_rows(a), *backend.normalize_rows(b)


def over_all_rows(shared: RowShards | None, logs: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
    """All-reduce the columns' sums over the rows of all ranks, those of which logs are given too.

    Args:
        shared: the ranks; None for one process.
        logs: logarithms of sums, of any shape.
        sums: others.

    Returns:
        The same over all ranks: ``logs``, and each of ``sums``.
    """
    if shared is None:
        return logs, *sums
    peak = shared.group.all_reduce_max(logs)
    peak = peak.masked_fill(peak == -torch.inf, 0)
    total, *sums_of_all = shared.group.all_reduce_sum((logs - peak).exp(), *sums)
    return total.log() + peak, *sums_of_all


def own_rows(b: Tensor, b_grad: Tensor, shared: RowShards | None) -> tuple[Tensor, Tensor]:
    """Return this rank's rows of b, and the gradients that all ranks have of them."""
    return (b, b_grad) if shared is None else (shared.own(b), shared.reduce_scatter(b_grad))


def finalize_gradients(
    backend: LossBackend, a_side: Side, b_side: Side, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, of b and of ``log_scale`` that leave the loss.

    Args:
        backend: finalizes them.
        a_side: what ``LossBackend.finalize_gradient`` takes of a: rows, ``s G b``, lengths or None,
            and the type of the gradient.
        b_side: the same of b.
        factor: scalar, multiplies all.
    """
    (a, a_grad, a_length, a_dtype), (b, b_grad, b_length, b_dtype) = a_side, b_side
    a_grad, log_scale_grad = backend.finalize_gradient(a, a_grad, factor, a_length, a_dtype)
    b_grad, _ = backend.finalize_gradient(b, b_grad, factor, b_length, b_dtype)
    return a_grad, b_grad, log_scale_grad


def per_rank(factor: Tensor, shared: RowShards | None) -> Tensor:
    """Scale gradients so that their mean over ranks is the gradient of the global loss."""
    return factor if shared is None else factor * shared.group.size
