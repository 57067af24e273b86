"""All pairs in chunks of rows: memory O(chunk x M) instead of O(N x M), in plain torch.

A chunk of logits is one matrix product into a buffer that is used again. What follows, element by
element, runs in pieces of a few rows that stay in a core's cache. The exps of the last chunk are
kept for the second sweep, which then has one product less to make.

One exp serves rows and columns: all exponents are shifted by the same number, chosen so that the
largest possible one does not overflow, and no maximum is searched. That is exact unless a sum is so
small that terms below the smallest number would have counted. The sums themselves tell; then they
are taken again, each relative to its own maximum.

On a GPU a call waits once for these sums to tell, and with ids once a chunk for the number of pairs
with equal ids; ``fused`` never waits.

Shapes: N rows of a, M rows of b, D wide, C rows of a chunk, R rows of a piece, P positive pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
from contrastive.losses.backends.products import multiply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels

CHUNK_BYTES = 128 * 2**20
CHUNK_ROWS = 256, 1024  # fewer make the product slow, more make it no faster
PIECE_NUMBERS = 2**18  # 1 MB of fp32, half of a usual L2 cache
MAX_TERMS = 2**20  # so many terms of the largest size add up without overflow
LOST = 2**-17  # share of a sum that may be lost in terms below the smallest number


@dataclass(frozen=True)
class Piece:
    """Some rows of logits, and which pairs of them are positives, or take no part."""

    x_RM: Tensor
    """Logits, or exps that were kept; they may be overwritten."""
    here: slice
    """Which rows of a."""
    i_P: Tensor
    """Rows of the positives, counted from the first of the piece."""
    j_P: Tensor
    positive_P: Tensor
    """Logits of the positives."""
    neither: tuple[Tensor, Tensor] | None
    first: int = 0
    """The column of all that is the first here."""
    stop: int = 0
    """The row after the last of the chunk."""
    kept: bool = False
    """Whether ``x_RM`` holds exps, less the shift, of negatives and 0 of what takes no part."""

    def leave_out(self, value: float = -torch.inf, *, of: Tensor | None = None) -> None:
        """Take positives, and what takes no part, out of what is summed: ``x_RM`` unless given."""
        of = self.x_RM if of is None else of
        of[self.i_P, self.j_P] = value
        if self.neither is not None:
            of[self.neither] = value


class ChunkedBackend(LossBackend):
    """Row chunks in plain torch, on any device."""

    def __init__(
        self,
        *,
        rows: int | None = None,
        matmul_dtype: torch.dtype | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        """Choose how to multiply.

        Args:
            rows: of a chunk; as many as fit ``CHUNK_BYTES`` if None.
            matmul_dtype: in which embeddings are multiplied. If None, fp32 (float64 for float64
                embeddings), but on a GPU bf16 or fp16 for embeddings of that type. Sums are fp32 in
                any case. A CPU, whose products in half precision are rounded, takes it for the
                products of the gradients only.
            cache_bytes: how many exps of the first sweep of InfoNCE are kept for the second, in
                whole chunks; one chunk if None.
        """
        self.rows = rows
        self.matmul_dtype = matmul_dtype
        self.cache_bytes = cache_bytes

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        shift = shift_of(a, b, scale)
        dtype = accumulation_dtype(a, b)
        row_N, row_positive_N = scale.new_zeros(2, len(a), dtype=dtype)
        column_M, column_positive_M = scale.new_zeros(2, len(b), dtype=dtype)
        many_N, many_M = labels.row_count_N > 1, labels.column_count_M > 1
        kept_rows = self._kept_rows(len(a), len(b), dtype) if gradients else 0
        kept = a.new_empty(kept_rows, len(b), dtype=dtype)
        first_kept = len(a) - len(kept)

        def add(piece: Piece) -> None:
            x_RM, here, i, j = piece.x_RM, piece.here, piece.i_P, piece.j_P
            row_positive_N[here].index_add_(0, i, piece.positive_P)
            column_positive_M.index_add_(0, j, piece.positive_P)
            piece.leave_out()
            x_RM.sub_(shift).exp_()
            row_N[here] = x_RM.sum(1)
            column_M.add_(x_RM.sum(0))
            if labels.kind == "groups":
                term_P = (piece.positive_P - shift).exp_()
                row_N[here].index_add_(0, i, term_P * many_N[here][i])
                column_M.index_add_(0, j, term_P * many_M[j])
            if here.start >= first_kept:
                x_RM[i, j] = piece.positive_P  # in the place of an exp that nothing needs

        self.sweep(a, b, scale, labels, add, gradients=False, kept=kept)
        least = torch.finfo(dtype).tiny / LOST
        exact = not bool((row_N.min() >= least * len(b)) & (column_M.min() >= least * len(a)))
        if exact:
            row_log_N, column_log_M = self._exact_logs(a, b, scale, labels)
        else:
            row_log_N, column_log_M = row_N.log_() + shift, column_M.log_() + shift
        return SoftmaxSums(
            row_log_N,
            column_log_M,
            row_positive_N,
            column_positive_M,
            torch.full((), exact),
            None if exact else kept,
        )

    def _exact_logs(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels
    ) -> tuple[Tensor, Tensor]:
        """Return ``row_log_N`` and ``column_log_M``, each sum relative to its own maximum."""
        row_log_N = scale.new_empty(len(a), dtype=accumulation_dtype(a, b))
        column_log_M = scale.new_full((len(b),), -torch.inf, dtype=accumulation_dtype(a, b))
        many_N, many_M = labels.row_count_N > 1, labels.column_count_M > 1

        def add(piece: Piece) -> None:
            x_RM, here, i, j = piece.x_RM, piece.here, piece.i_P, piece.j_P
            piece.leave_out()
            x_RM[i, j] = torch.where(many_N[here][i], piece.positive_P, -torch.inf)
            row_log_N[here] = x_RM.logsumexp(1)
            x_RM[i, j] = torch.where(many_M[j], piece.positive_P, -torch.inf)
            torch.logaddexp(column_log_M, x_RM.logsumexp(0), out=column_log_M)

        self.sweep(a, b, scale, labels, add, gradients=False)
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
        shift = shift_of(a, b, scale)
        row_N, column_M = torch.exp(shift - rows.log_norm), torch.exp(shift - columns.log_norm)

        def weigh_(piece: Piece) -> None:
            x_RM, here, i, j = piece.x_RM, piece.here, piece.i_P, piece.j_P
            if exact:
                by_column_RM = torch.exp(x_RM - columns.log_norm)
                x_RM.sub_(rows.log_norm[here, None]).exp_().add_(by_column_RM)
            else:
                exps_RM = x_RM if piece.kept else x_RM.sub_(shift).exp_()
                exps_RM.mul_(row_N[here, None] + column_M)
            piece.leave_out(0)
            x_RM[i, j] = _positive_gradient(piece.positive_P, rows, i + here.start, columns, j)

        return self.sweep(a, b, scale, labels, weigh_, gradients=True, kept=kept, known=True)

    def own_sums(self, a: Tensor, all_a: Tensor, scale: Tensor, labels: PairLabels) -> SoftmaxSums:
        """See ``LossBackend``."""
        if a is not all_a:  # a rank has some rows only
            return super().own_sums(a, all_a, scale, labels)
        shift = shift_of(a, a, scale)
        dtype = accumulation_dtype(a, a)
        row_N, row_positive_N = scale.new_zeros(2, len(a), dtype=dtype)
        many_N = labels.row_count_N > 1

        def add(piece: Piece) -> None:
            x_RM, i, j = piece.x_RM, piece.i_P + piece.here.start, piece.j_P + piece.first
            mirrored = j >= piece.stop
            for at, term_P in ((i, piece.positive_P), (j[mirrored], piece.positive_P[mirrored])):
                row_positive_N.index_add_(0, at, term_P)
            piece.leave_out()
            x_RM.sub_(shift).exp_()
            row_N[piece.here] += x_RM.sum(1)
            row_N[piece.stop :] += x_RM[:, piece.stop - piece.first :].sum(0)
            if labels.kind == "groups":
                term_P = (piece.positive_P - shift).exp_()
                row_N.index_add_(0, i, term_P * many_N[i])
                row_N.index_add_(0, j[mirrored], (term_P * many_N[j])[mirrored])

        self._half_sweep(a, scale, labels, add, gradients=False)
        least = torch.finfo(dtype).tiny / LOST
        exact = not bool(row_N.min() >= least * len(a))
        if exact:
            return super().own_sums(a, all_a, scale, labels)
        none = row_N.new_empty(0)
        row_log_N = row_N.log_() + shift
        return SoftmaxSums(row_log_N, none, row_positive_N, none, torch.full((), exact))

    def own_gradient(
        self,
        a: Tensor,
        all_a: Tensor,
        scale: Tensor,
        labels: PairLabels,
        *,
        rows: RowStats,
        columns: RowStats,
        exact: Tensor,
    ) -> Tensor:
        """See ``LossBackend``."""
        if a is not all_a or exact:
            return super().own_gradient(
                a, all_a, scale, labels, rows=rows, columns=columns, exact=exact
            )
        shift = shift_of(a, a, scale)
        row_N = torch.exp(shift - rows.log_norm)

        def weigh_(piece: Piece) -> None:
            i, j = piece.i_P + piece.here.start, piece.j_P + piece.first
            exps_RM = piece.x_RM.sub_(shift).exp_()
            exps_RM.mul_(row_N[piece.here, None] + row_N[piece.first :])
            piece.leave_out(0)
            piece.x_RM[piece.i_P, piece.j_P] = _positive_gradient(
                piece.positive_P, rows, i, rows, j
            )

        return self._half_sweep(a, scale, labels, weigh_, gradients=True)

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        total = scale.new_zeros((), dtype=torch.float64)
        one = scale.new_ones((), dtype=accumulation_dtype(a, b))

        def weigh_(piece: Piece) -> None:
            x_RM, i, j, positive_P = piece.x_RM, piece.i_P, piece.j_P, piece.positive_P
            count_R = labels.row_count_N[piece.here]
            piece.leave_out()
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

        grads = self.sweep(a, b, scale, labels, weigh_, gradients=gradients)
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

        def weigh_(piece: Piece) -> None:
            x_RM = piece.x_RM.add_(bias)
            positive_P = piece.positive_P + bias
            piece.leave_out()
            total.sub_(logsigmoid(-x_RM).sum()).sub_(logsigmoid(positive_P).sum())
            if gradients:
                x_RM.sigmoid_()
                x_RM[piece.i_P, piece.j_P] = -torch.sigmoid(-positive_P)
                bias_grad.add_(x_RM.sum())

        grads = self.sweep(a, b, scale, labels, weigh_, gradients=gradients)
        dtype = accumulation_dtype(a, b)
        return total.to(dtype), *grads, bias_grad.to(dtype)

    def sweep(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        visit_: Callable[[Piece], None],
        *,
        gradients: bool,
        kept: Tensor | None = None,
        known: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Show ``visit_`` the logits of all pairs, some rows at a time.

        Args:
            a: ``[N, D]``.
            b: ``[M, D]``.
            scale: scalar.
            labels: who is whose positive.
            visit_: may overwrite the logits of a piece.
            gradients: what ``visit_`` leaves is G.
            kept: of the last rows, where ``visit_`` leaves what is to be kept.
            known: ``kept`` holds that already, so these rows are not multiplied again; what
                ``visit_`` gets of them is a copy.

        Returns:
            ``s G b`` ``[N, D]`` and ``s G^T a`` ``[M, D]``, or two empty tensors.
        """
        dtype, logit_dtype, gradient_dtype = self._dtypes(a, b)
        scale = scale.to(dtype)
        matched_N = _matched_logits(a, b, scale, labels) if logit_dtype.itemsize < 4 else None
        a_grad, b_grad = (a.new_zeros(x.shape if gradients else 0, dtype=dtype) for x in (a, b))
        left, right = a.to(logit_dtype), b.to(logit_dtype).T
        a, b = a.to(gradient_dtype), b.to(gradient_dtype)
        chunks = self._chunks(len(a), len(b))
        buffer = a.new_empty(chunks[0].stop, len(b), dtype=dtype)
        first_kept = len(a) - (0 if kept is None else len(kept))
        for chunk in chunks:
            stored_CM = None
            if kept is not None and chunk.start >= first_kept:
                stored_CM = kept[chunk.start - first_kept : chunk.stop - first_kept]
            exps_CM = stored_CM if known else None
            x_CM = buffer[: chunk.stop - chunk.start]
            if exps_CM is None:
                x_CM = x_CM if stored_CM is None else stored_CM
                multiply(left[chunk], right, out=x_CM)
            for here in _pieces(chunk, x_CM):
                part = slice(here.start - chunk.start, here.stop - chunk.start)
                x_RM = x_CM[part]
                if exps_CM is None:
                    x_RM.mul_(scale)
                else:
                    x_RM.copy_(exps_CM[part])
                i, j, neither = labels.pairs(here.start, here.stop)
                positive_P = x_RM[i, j] if matched_N is None else matched_N[here][i]
                visit_(Piece(x_RM, here, i, j, positive_P, neither, kept=exps_CM is not None))
            if gradients:
                g_CM = x_CM.to(gradient_dtype)
                multiply(g_CM, b, out=a_grad[chunk])
                multiply(g_CM.T, a[chunk], out=b_grad, add=True)
        return a_grad.mul_(scale), b_grad.mul_(scale)

    def _half_sweep(
        self,
        a: Tensor,
        scale: Tensor,
        labels: PairLabels,
        visit_: Callable[[Piece], None],
        *,
        gradients: bool,
    ) -> Tensor:
        """Show ``visit_`` the logits of rows of a with each other, from the first of their chunk on.

        So a pair of one chunk is met twice, as row and column and the other way round, any other
        once. Returns ``s G a`` ``[N, D]`` for a symmetric G, or an empty tensor.
        """
        dtype, logit_dtype, gradient_dtype = self._dtypes(a, a)
        scale = scale.to(dtype)
        grad = a.new_zeros(a.shape if gradients else 0, dtype=dtype)
        left, a = a.to(logit_dtype), a.to(gradient_dtype)
        n = len(a)
        chunks = self._chunks(n, n)
        buffer = a.new_empty(chunks[0].stop * n, dtype=dtype)
        for chunk in chunks:
            first, stop = chunk.start, chunk.stop
            x_CM = buffer[: (stop - first) * (n - first)].view(stop - first, n - first)
            multiply(left[chunk], left[first:].T, out=x_CM)
            for here in _pieces(chunk, x_CM):
                x_RM = x_CM[here.start - first : here.stop - first].mul_(scale)
                i, j, neither = labels.pairs(here.start, here.stop, first=first)
                visit_(Piece(x_RM, here, i, j, x_RM[i, j], neither, first, stop))
            if gradients:
                g_CM = x_CM.to(gradient_dtype)
                multiply(g_CM, a[first:], out=grad[chunk], add=True)
                multiply(g_CM[:, stop - first :].T, a[chunk], out=grad[stop:], add=True)
        return grad.mul_(scale)

    def _chunks(self, n: int, m: int) -> list[slice]:
        """Return which rows come at a time: as many each as fit, and about equally many."""
        most = self.rows or min(max(CHUNK_BYTES // (4 * m), CHUNK_ROWS[0]), CHUNK_ROWS[1])
        rows = max(1, -(-n // max(1, -(-n // most))))
        return [slice(start, min(start + rows, n)) for start in range(0, max(1, n), rows)]

    def _kept_rows(self, n: int, m: int, dtype: torch.dtype) -> int:
        """Return how many rows of exps are kept: of the last chunks, as ``cache_bytes`` says."""
        chunks = self._chunks(n, m)
        if self.cache_bytes is None:
            return n - chunks[-1].start
        fits = [
            chunk for chunk in chunks if (n - chunk.start) * m * dtype.itemsize <= self.cache_bytes
        ]
        return n - fits[0].start if fits else 0

    def _dtypes(self, a: Tensor, b: Tensor) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        """Return the types of sums, and of the products for logits and for gradients."""
        dtype = accumulation_dtype(a, b)
        if self.matmul_dtype is None and a.is_cuda and a.dtype == b.dtype:
            return dtype, a.dtype, a.dtype
        multiplied = self.matmul_dtype or dtype
        return dtype, multiplied if a.is_cuda else dtype, multiplied


def _pieces(chunk: slice, x_CM: Tensor) -> Iterator[slice]:
    # on a GPU a launch costs more than a cache miss
    step = len(x_CM) if x_CM.is_cuda else max(1, PIECE_NUMBERS // x_CM.shape[1])
    for start in range(chunk.start, chunk.stop, max(1, step)):
        yield slice(start, min(start + step, chunk.stop))


def _positive_gradient(
    positive_P: Tensor, rows: RowStats, i: Tensor, columns: RowStats, j: Tensor
) -> Tensor:
    """Return G of the positives in rows i and columns j."""
    sides = ((rows, i), (columns, j))
    return sum(
        torch.exp(positive_P - side.log_norm_positives[at]) - side.positive_weight[at]
        for side, at in sides
    )


def _matched_logits(a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels) -> Tensor | None:
    """Return ``[N]`` logits of the matched pairs, 0 for a row without; None in groups.

    A GPU adds up products in half precision with fewer digits than fp32 has; the loss is as exact
    as these logits.
    """
    if labels.kind == "groups":
        return None
    matched_N = a.new_zeros(len(a), dtype=scale.dtype)
    i, j, _ = replace(labels, kind="diagonal").pairs(0, len(a))
    matched_N[i] = (a[i].to(scale.dtype) * b[j].to(scale.dtype)).sum(1) * scale
    return matched_N


def shift_of(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the number to subtract from every logit so that no sum of exps overflows."""
    dtype = accumulation_dtype(a, b)
    if not len(a):  # a rank without rows
        return scale.new_zeros((), dtype=dtype)
    longest = _longest(a.to(dtype)) * _longest(b.to(dtype))
    room = math.log(torch.finfo(dtype).max / MAX_TERMS)
    return (scale * longest - room).clamp_(min=0)


def _longest(x: Tensor) -> Tensor:
    return x.square().sum(1).max().sqrt()
