"""What a backend computes for the losses: passes over the logits of all pairs.

``all_pairs`` has the equations, and all that is of O(N + M).

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels
    from contrastive.losses.backends.row_stats import RowStats


@dataclass(frozen=True)
class SoftmaxSums:
    """What the first sweep of InfoNCE finds. All fp32, or float64 for float64 embeddings."""

    row_log_N: Tensor
    """Logarithm of the sum of exp over the negatives of a row; over its positives too, where it has
    more than one; -inf for an empty sum."""
    column_log_M: Tensor
    row_positive_N: Tensor
    """Sum of the positive logits of a row; 0 where there is none."""
    column_positive_M: Tensor
    exact: Tensor
    """Whether one shift for all exponents would lose terms that count; scalar bool."""
    kept: Tensor | None = None
    """What the first sweep keeps for the second, if anything."""


class LossBackend(ABC):
    """Passes over the N x M logit matrix that never hold all of it.

    Embeddings are fp32, half precision or float64; what is returned is fp32 (or float64), but for
    the results of ``normalize_rows`` and ``finalize_gradient``.
    """

    @abstractmethod
    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """Return the sums of ``infonce`` for ``a`` ``[N, D]`` and ``b`` ``[M, D]``.

        ``gradients`` says whether the second sweep may follow.
        """

    @abstractmethod
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
        """Return ``s G b`` ``[N, D]`` and ``s G^T a`` ``[M, D]``.

        ``exact`` and ``kept`` are those of ``SoftmaxSums``.
        """

    @abstractmethod
    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the rows' losses, ``s G b`` and ``s G^T a`` for rows of weight 1.

        A single sweep, since a row is complete when it is met. Without ``gradients`` the two
        others are empty.
        """

    @abstractmethod
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
        """Return the sum of the pairs' losses, ``s G b``, ``s G^T a`` and the sum of G.

        A single sweep. Without ``gradients`` the three others are empty.
        """

    def own_sums(self, a: Tensor, all_a: Tensor, scale: Tensor, labels: PairLabels) -> SoftmaxSums:
        """Return the sums of the rows of a over all rows of a, of which a rank has some."""
        return self.sums(a, all_a, scale, labels, gradients=False)

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
        """Return ``s G a`` ``[n, D]`` for logits of rows of a with each other."""
        grad, _ = self.gradients(
            a, all_a, scale, labels, rows=rows, columns=columns, exact=exact, kept=None
        )
        return grad

    def normalize_rows(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of ``raw`` ``[N, D]`` with length 1, and their lengths ``[N]``, fp32."""
        x = raw.to(accumulation_dtype(raw, raw))
        length_N = x.square().sum(1).sqrt().clamp(min=1e-12)
        return x / length_N[:, None], length_N

    def finalize_gradient(
        self, x: Tensor, grad: Tensor, factor: Tensor, length_N: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient that leaves the loss, and its part in that of ``log_scale``.

        Args:
            x: ``[N, D]``, embeddings.
            grad: ``[N, D]``, ``s G b``; it is not changed.
            factor: scalar, multiplies the gradient.
            length_N: of the rows before they were given length 1, if ``normalize_rows`` did so.
            dtype: of the gradient.

        Returns:
            ``[N, D]`` and the scalar ``sum_i x_i . grad_i``, times ``factor``.
        """
        grad = grad * factor
        dot_N = (x * grad).sum(1)
        if length_N is not None:
            grad = (grad - x * dot_N[:, None]) / length_N[:, None]
        return grad.to(dtype), dot_N.sum()


def accumulation_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Return the type of what is computed from embeddings: fp32, or float64 if one is."""
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
