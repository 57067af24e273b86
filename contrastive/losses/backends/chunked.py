"""All pairs in chunks of rows: memory O(chunk x M) instead of O(N x M), in plain torch.

A chunk of logits is one matrix product into a buffer that is used again. What follows, element by
element, runs in pieces of a few rows that stay in a core's cache.

One exp serves rows and columns: all exponents are shifted by the same number, chosen so that the
largest possible one does not overflow, and no maximum is searched. That is exact unless a sum is so
small that terms below the smallest number would have counted. The sums themselves tell; then they
are taken again, each relative to its own maximum.

Shapes: N rows of a, M rows of b, D wide, C rows of a chunk, R rows of a piece, P positive pairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from contrastive.losses.backends.base import (
    LossBackend,
    RowStats,
    SoftmaxSums,
    accumulation_dtype,
    row_stats,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels

CHUNK_BYTES = 128 * 2**20
CHUNK_ROWS = 256, 1024  # fewer make the product slow, more make it no faster
PIECE_NUMBERS = 2**18  # 1 MB of fp32, half of a usual L2 cache
MAX_TERMS = 2**20  # so many terms of the largest size add up without overflow
LOST = 2**-17  # share of a sum that may be lost in terms below the smallest number


class ChunkedBackend(LossBackend):
    """Row chunks in plain torch, on any device."""

    def __init__(self, *, rows: int | None = None, matmul_dtype: torch.dtype | None = None) -> None:
        """Choose how to multiply.

        Args:
            rows: of a chunk; as many as fit ``CHUNK_BYTES`` if None.
            matmul_dtype: in which embeddings are multiplied. If None, fp32 (float64 for float64
                embeddings), but on a GPU bf16 or fp16 for embeddings of that type. Sums are fp32 in
                any case; on a CPU, products in bf16 round the logits to bf16.
        """
        self.rows = rows
        self.matmul_dtype = matmul_dtype

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``; nothing is kept."""
        del gradients
        shift = _shift(a, b, scale)
        row_N, row_positive_N = scale.new_zeros(2, len(a), dtype=accumulation_dtype(a, b))
        column_M, column_positive_M = scale.new_zeros(2, len(b), dtype=accumulation_dtype(a, b))
        many_N, many_M = labels.row_count_N > 1, labels.column_count_M > 1

        def add(x_RM: Tensor, here: slice) -> None:
            i, j, neither = labels.pairs(here.start, here.stop)
            positive_P = x_RM[i, j]
            row_positive_N[here].index_add_(0, i, positive_P)
            column_positive_M.index_add_(0, j, positive_P)
            _leave_out(x_RM, i, j, neither)
            x_RM.sub_(shift).exp_()
            row_N[here] = x_RM.sum(1)
            column_M.add_(x_RM.sum(0))
            if labels.kind == "groups":
                term_P = (positive_P - shift).exp_()
                row_N[here].index_add_(0, i, term_P * many_N[here][i])
                column_M.index_add_(0, j, term_P * many_M[j])

        self._sweep(a, b, scale, add, gradients=False)
        least = torch.finfo(row_N.dtype).tiny / LOST
        if not (row_N.min() >= least * len(b) and column_M.min() >= least * len(a)):
            row_log_N, column_log_M = self._exact_logs(a, b, scale, labels)
            exact = torch.ones((), dtype=torch.bool)
        else:
            row_log_N, column_log_M = row_N.log_() + shift, column_M.log_() + shift
            exact = torch.zeros((), dtype=torch.bool)
        return SoftmaxSums(row_log_N, column_log_M, row_positive_N, column_positive_M, exact)

    def _exact_logs(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels
    ) -> tuple[Tensor, Tensor]:
        """Return ``row_log_N`` and ``column_log_M``, each sum relative to its own maximum."""
        row_log_N = scale.new_empty(len(a), dtype=accumulation_dtype(a, b))
        column_log_M = scale.new_full((len(b),), -torch.inf, dtype=accumulation_dtype(a, b))
        many_N, many_M = labels.row_count_N > 1, labels.column_count_M > 1

        def add(x_RM: Tensor, here: slice) -> None:
            i, j, neither = labels.pairs(here.start, here.stop)
            positive_P = x_RM[i, j]
            _leave_out(x_RM, i, j, neither)
            x_RM[i, j] = torch.where(many_N[here][i], positive_P, -torch.inf)
            row_log_N[here] = x_RM.logsumexp(1)
            x_RM[i, j] = torch.where(many_M[j], positive_P, -torch.inf)
            torch.logaddexp(column_log_M, x_RM.logsumexp(0), out=column_log_M)

        self._sweep(a, b, scale, add, gradients=False)
        return row_log_N, column_log_M

    def gradients(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        *,
        rows: RowStats,
        columns: RowStats,
        exact: Tensor,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See ``LossBackend``."""
        assert kept is None
        shift = _shift(a, b, scale)
        row_N, column_M = torch.exp(shift - rows.log_norm), torch.exp(shift - columns.log_norm)

        def weigh_(x_RM: Tensor, here: slice) -> None:
            i, j, neither = labels.pairs(here.start, here.stop)
            positive_P = x_RM[i, j]
            if exact:
                by_column_RM = torch.exp(x_RM - columns.log_norm)
                x_RM.sub_(rows.log_norm[here, None]).exp_().add_(by_column_RM)
            else:
                x_RM.sub_(shift).exp_().mul_(row_N[here, None] + column_M)
            _leave_out(x_RM, i, j, neither, value=0)
            by_row_P = (
                torch.exp(positive_P - rows.log_norm_positives[here][i])
                - rows.positive_weight[here][i]
            )
            by_column_P = (
                torch.exp(positive_P - columns.log_norm_positives[j]) - columns.positive_weight[j]
            )
            x_RM[i, j] = by_row_P + by_column_P

        return self._sweep(a, b, scale, weigh_, gradients=True)

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        total = scale.new_zeros((), dtype=torch.float64)
        one = scale.new_ones((), dtype=accumulation_dtype(a, b))

        def weigh_(x_RM: Tensor, here: slice) -> None:
            i, j, neither = labels.pairs(here.start, here.stop)
            count_R = labels.row_count_N[here]
            positive_P = x_RM[i, j]
            _leave_out(x_RM, i, j, neither)
            x_RM[i, j] = torch.where((count_R > 1)[i], positive_P, -torch.inf)
            peak_R = x_RM.amax(1)
            peak_R = peak_R.masked_fill(peak_R == -torch.inf, 0)
            log_R = x_RM.sub_(peak_R[:, None]).exp_().sum(1).log_().add_(peak_R)
            target_R = torch.zeros_like(log_R).index_add_(0, i, positive_P)
            loss_R, rows = row_stats(log_R, target_R, count_R, one)
            total.add_(loss_R.sum())
            if gradients:
                x_RM.mul_((peak_R - rows.log_norm).clamp_(max=0).exp_()[:, None])
                x_RM[i, j] = (
                    torch.exp(positive_P - rows.log_norm_positives[i]) - rows.positive_weight[i]
                )

        grads = self._sweep(a, b, scale, weigh_, gradients=gradients)
        return total.to(one.dtype), *grads

    def sigmoid(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        labels: PairLabels,
        *,
        gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        total, bias_grad = scale.new_zeros(2, dtype=torch.float64)

        def weigh_(x_RM: Tensor, here: slice) -> None:
            i, j, neither = labels.pairs(here.start, here.stop)
            x_RM.add_(bias)
            positive_P = x_RM[i, j]
            _leave_out(x_RM, i, j, neither)
            total.sub_(logsigmoid(-x_RM).sum()).sub_(logsigmoid(positive_P).sum())
            if gradients:
                x_RM.sigmoid_()
                x_RM[i, j] = -torch.sigmoid(-positive_P)
                bias_grad.add_(x_RM.sum())

        grads = self._sweep(a, b, scale, weigh_, gradients=gradients)
        dtype = accumulation_dtype(a, b)
        return total.to(dtype), *grads, bias_grad.to(dtype)

    def _sweep(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        visit_: Callable[[Tensor, slice], None],
        *,
        gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        """Show ``visit_`` the logits of all pairs, some rows at a time.

        Args:
            a: ``[N, D]``.
            b: ``[M, D]``.
            scale: scalar.
            visit_: gets logits ``[R, M]``, which it may overwrite, and which rows they are.
            gradients: what ``visit_`` leaves is G.

        Returns:
            ``s G b`` ``[N, D]`` and ``s G^T a`` ``[M, D]``, or two empty tensors.
        """
        dtype, matmul_dtype = accumulation_dtype(a, b), self._matmul_dtype(a, b)
        scale = scale.to(dtype)
        a, b = (a.to(matmul_dtype), b.to(matmul_dtype))
        a_grad, b_grad = (a.new_zeros(x.shape if gradients else 0, dtype=dtype) for x in (a, b))
        size = self.rows or min(max(CHUNK_BYTES // (4 * len(b)), CHUNK_ROWS[0]), CHUNK_ROWS[1])
        buffer = a.new_empty(min(size, len(a)), len(b), dtype=dtype)
        # on a GPU a launch costs more than a cache miss
        step = len(a) if a.is_cuda else max(1, PIECE_NUMBERS // len(b))
        for start in range(0, len(a), size):
            chunk = a[start : start + size]
            x_CM = buffer[: len(chunk)]
            _multiply(chunk, b.T, out=x_CM)
            for at in range(0, len(chunk), step):
                x_RM = x_CM[at : at + step]
                x_RM.mul_(scale)
                visit_(x_RM, slice(start + at, start + at + len(x_RM)))
            if gradients:
                g_CM = x_CM.to(matmul_dtype)
                _multiply(g_CM, b, out=a_grad[start : start + size])
                _add_product(b_grad, g_CM.T, chunk)
        return a_grad.mul_(scale), b_grad.mul_(scale)

    def _matmul_dtype(self, a: Tensor, b: Tensor) -> torch.dtype:
        if self.matmul_dtype is None and a.is_cuda and a.dtype == b.dtype:
            return a.dtype
        return self.matmul_dtype or accumulation_dtype(a, b)


def _leave_out(
    x_RM: Tensor, i: Tensor, j: Tensor, neither: Tensor | None, value: float = -torch.inf
) -> None:
    """Take positives, and pairs that are neither positive nor negative, out of what is summed."""
    x_RM[i, j] = value
    if neither is not None:
        x_RM.masked_fill_(neither, value)


def _shift(a: Tensor, b: Tensor, scale: Tensor) -> float:
    """Return the number to subtract from every logit so that no sum of exps overflows."""
    dtype = accumulation_dtype(a, b)
    longest = _longest(a.to(dtype)) * _longest(b.to(dtype))
    room = math.log(torch.finfo(dtype).max / MAX_TERMS)
    return max(0.0, float(scale * longest) - room)


def _longest(x: Tensor) -> Tensor:
    return x.square().sum(1).max().sqrt()


def _multiply(x: Tensor, y: Tensor, *, out: Tensor) -> None:
    """Write ``x @ y`` to ``out``, which may be wider."""
    if x.dtype == out.dtype:
        torch.mm(x, y, out=out)
    elif x.is_cuda:
        torch.mm(x, y, out_dtype=out.dtype, out=out)
    else:
        out.copy_(x @ y)


def _add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add ``x @ y`` to ``total``, which may be wider."""
    if x.dtype == total.dtype:
        total.addmm_(x, y)
    elif x.is_cuda:
        torch.addmm(total, x, y, out_dtype=total.dtype, out=total)
    else:
        total.add_(x @ y)
