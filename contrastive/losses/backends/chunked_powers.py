"""Sums of exp(p x) for several powers p, and their gradients, in chunks: see ``power_sums``.

Shapes: N rows of a, M rows of b, D wide, K powers, R rows of a piece, P positive pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.logit_chunks import LOST, shift_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.losses.backends.logit_chunks import Piece, Sweep
    from contrastive.losses.backends.pair_labels import PairLabels


@dataclass(frozen=True)
class PowerWeights:
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


def power_sums(
    sweep: Sweep,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: Sequence[float],
) -> tuple[list[Tensor], list[Tensor], Tensor]:
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

    sweep.over(a, b, scale, labels, add, gradients=False)
    least = torch.finfo(dtype).tiny / LOST
    enough = [
        (row >= least * len(b)).all(),
        (column >= least * len(a)).all(),
        ((row_same >= least * len(b)) | (labels.row_count_N == 0)).all(),
        ((column_same >= least * len(a)) | (labels.column_count_M == 0)).all(),
    ]
    exact = not bool(torch.stack(enough).all())
    if exact:
        row, row_same, column, column_same = _exact_logs(sweep, a, b, scale, labels, powers)
    else:
        shift_K = torch.stack(shifts)[:, None]
        row, row_same, column, column_same = (
            x.log_().add_(shift_K) for x in (row, row_same, column, column_same)
        )
    found = [row, row_same, row_positive_N], [column, column_same, column_positive_M]
    return *found, torch.full((), exact)


def _exact_logs(
    sweep: Sweep,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: Sequence[float],
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

    sweep.over(a, b, scale, labels, add, gradients=False)
    return row, row_same, column, column_same


def power_gradients(
    sweep: Sweep,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: PairLabels,
    powers: Sequence[float],
    rows: PowerWeights,
    columns: PowerWeights,
    exact: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``."""
    shifts = [shift_of(a, b, scale * p) for p in powers]
    row_N, column_M = (
        [side.shifted(k, shifts[k]) * p for k, p in enumerate(powers)] for side in (rows, columns)
    )

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
                weight_RM = row_N[k][here, None] + column_M[k]
                g_RM += weight_RM.mul_(torch.exp(x_RM * p - shifts[k]))
            for side, at in ((rows, i + here.start), (columns, j)):
                exps_P = torch.exp(piece.positive_P * p - side.positive_logs[k, at])
                outer_P = side.positive_outer[k, at]
                g_P = g_P + p * torch.where(outer_P == 0, 0, outer_P * exps_P)
        x_RM.copy_(g_RM)
        piece.leave_out(0)
        x_RM[i, j] = g_P

    return sweep.over(a, b, scale, labels, weigh_, gradients=True)
