"""All pairs in chunks of rows: memory O(chunk x M) instead of O(N x M), in plain torch.

The exps of the last chunks are kept for the second sweep, which then has fewer products to make.

One exp serves rows and columns: all exponents are shifted by the same number, chosen so that the
largest possible one does not overflow, and no maximum is searched. That is exact unless a sum is so
small that terms below the smallest number would have counted. The sums themselves tell; then they
are taken again, each relative to its own maximum.

On a GPU a call waits once for these sums to tell, and with ids once a chunk for the number of pairs
with equal ids; ``fused`` never waits.

Shapes: N rows of a, M rows of b, D wide, C rows of a chunk, R rows of a piece, P positive pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from contrastive.losses.backends import chunked_powers
from contrastive.losses.backends.base import (
    LossBackend,
    SoftmaxSums,
    accumulation_dtype,
)
from contrastive.losses.backends.logit_chunks import (
    CHUNK_BYTES,
    LOST,
    Piece,
    Sweep,
    shift_,
    shift_of,
)
from contrastive.losses.backends.row_stats import RowStats, row_stats
from contrastive.nn.device import widest_float

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.losses.backends.chunked_powers import PowerWeights
    from contrastive.losses.backends.pair_labels import PairLabels


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
                whole chunks; if None, one, and more in ``CHUNK_BYTES`` while it is less than half.
        """
        self.sweep = Sweep(rows, matmul_dtype)
        self.cache_bytes = cache_bytes

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        shift = shift_of(a, b, scale)
        dtype = accumulation_dtype(a, b)
        row_N, row_positive_N = (scale.new_zeros(len(a), dtype=dtype) for _ in range(2))
        column_M, column_positive_M = (scale.new_zeros(len(b), dtype=dtype) for _ in range(2))
        many_N, many_M = labels.row_count_N > 1, labels.column_count_M > 1
        kept_rows = self.kept_rows(len(a), len(b), dtype) if gradients else 0
        kept = a.new_empty(kept_rows, len(b), dtype=dtype)
        first_kept = len(a) - len(kept)

        def add(piece: Piece) -> None:
            x_RM, here, i, j = piece.x_RM, piece.here, piece.i_P, piece.j_P
            row_positive_N[here].index_add_(0, i, piece.positive_P)
            column_positive_M.index_add_(0, j, piece.positive_P)
            piece.leave_out()
            shift_(x_RM, shift).exp_()
            row_N[here] = x_RM.sum(1)
            column_M.add_(x_RM.sum(0))
            if labels.kind == "groups":
                term_P = (piece.positive_P - shift).exp_()
                row_N[here].index_add_(0, i, term_P * many_N[here][i])
                column_M.index_add_(0, j, term_P * many_M[j])
            if here.start >= first_kept:
                x_RM[i, j] = piece.positive_P  # in the place of an exp that nothing needs

        self.sweep.over(a, b, scale, labels, add, gradients=False, kept=kept)
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
            kept,
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

        self.sweep.over(a, b, scale, labels, add, gradients=False)
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
        kept = None if exact else kept
        shift = shift_of(a, b, scale)
        row_N, column_M = torch.exp(shift - rows.log_norm), torch.exp(shift - columns.log_norm)

        def weigh_(piece: Piece) -> None:
            x_RM, here, i, j = piece.x_RM, piece.here, piece.i_P, piece.j_P
            if exact:
                by_column_RM = torch.exp(x_RM - columns.log_norm)
                x_RM.sub_(rows.log_norm[here, None]).exp_().add_(by_column_RM)
            else:
                exps_RM = x_RM if piece.kept else shift_(x_RM, shift).exp_()
                exps_RM.mul_(row_N[here, None] + column_M)
            piece.leave_out(0)
            x_RM[i, j] = _positive_gradient(piece.positive_P, rows, i + here.start, columns, j)

        return self.sweep.over(a, b, scale, labels, weigh_, gradients=True, kept=kept, known=True)

    def own_sums(self, a: Tensor, all_a: Tensor, scale: Tensor, labels: PairLabels) -> SoftmaxSums:
        """See ``LossBackend``."""
        if a is not all_a:  # a rank has some rows only
            return super().own_sums(a, all_a, scale, labels)
        shift = shift_of(a, a, scale)
        dtype = accumulation_dtype(a, a)
        row_N, row_positive_N = (scale.new_zeros(len(a), dtype=dtype) for _ in range(2))
        many_N = labels.row_count_N > 1

        def add(piece: Piece) -> None:
            x_RM, i, j = piece.x_RM, piece.i_P + piece.here.start, piece.j_P + piece.first
            mirrored = j >= piece.stop
            for at, term_P in ((i, piece.positive_P), (j[mirrored], piece.positive_P[mirrored])):
                row_positive_N.index_add_(0, at, term_P)
            piece.leave_out()
            shift_(x_RM, shift).exp_()
            row_N[piece.here] += x_RM.sum(1)
            row_N[piece.stop :] += x_RM[:, piece.stop - piece.first :].sum(0)
            if labels.kind == "groups":
                term_P = (piece.positive_P - shift).exp_()
                row_N.index_add_(0, i, term_P * many_N[i])
                row_N.index_add_(0, j[mirrored], (term_P * many_N[j])[mirrored])

        self.sweep.half(a, scale, labels, add, gradients=False)
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
            exps_RM = shift_(piece.x_RM, shift).exp_()
            exps_RM.mul_(row_N[piece.here, None] + row_N[piece.first :])
            piece.leave_out(0)
            piece.x_RM[piece.i_P, piece.j_P] = _positive_gradient(
                piece.positive_P, rows, i, rows, j
            )

        return self.sweep.half(a, scale, labels, weigh_, gradients=True)

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        total = scale.new_zeros((), dtype=widest_float(scale.device))
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

        grads = self.sweep.over(a, b, scale, labels, weigh_, gradients=gradients)
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
        total, bias_grad = scale.new_zeros(2, dtype=widest_float(scale.device))

        def weigh_(piece: Piece) -> None:
            x_RM = piece.x_RM.add_(bias)
            positive_P = piece.positive_P + bias
            piece.leave_out()
            total.sub_(logsigmoid(-x_RM).sum()).sub_(logsigmoid(positive_P).sum())
            if gradients:
                x_RM.sigmoid_()
                x_RM[piece.i_P, piece.j_P] = -torch.sigmoid(-positive_P)
                bias_grad.add_(x_RM.sum())

        grads = self.sweep.over(a, b, scale, labels, weigh_, gradients=gradients)
        dtype = accumulation_dtype(a, b)
        return total.to(dtype), *grads, bias_grad.to(dtype)

    def power_sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, powers: Sequence[float]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """See ``chunked_powers``."""
        return chunked_powers.power_sums(self.sweep, a, b, scale, labels, powers)

    def power_gradients(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        powers: Sequence[float],
        rows: PowerWeights,
        columns: PowerWeights,
        *,
        exact: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See ``chunked_powers``."""
        return chunked_powers.power_gradients(
            self.sweep, a, b, scale, labels, powers, rows, columns, exact
        )

    def kept_rows(self, n: int, m: int, dtype: torch.dtype) -> int:
        """Return how many rows of exps are kept: of the last chunks, as ``cache_bytes`` says."""
        chunks, row_bytes = self.sweep.chunks(n, m), m * dtype.itemsize
        bound = self.cache_bytes
        if bound is None:  # with the chunk at work half of all, if that is little; a chunk at least
            rows = max(n // 2 - chunks[0].stop, n - chunks[-1].start)
            bound = min(rows * row_bytes, max(CHUNK_BYTES, (n - chunks[-1].start) * row_bytes))
        fits = [chunk for chunk in chunks if (n - chunk.start) * row_bytes <= bound]
        return n - fits[0].start if fits else 0


def _positive_gradient(
    positive_P: Tensor, rows: RowStats, i: Tensor, columns: RowStats, j: Tensor
) -> Tensor:
    """Return G of the positives in rows i and columns j."""
    by_row_P, by_column_P = (
        torch.exp(positive_P - side.log_norm_positives[at]) - side.positive_weight[at]
        for side, at in ((rows, i), (columns, j))
    )
    return by_row_P + by_column_P
