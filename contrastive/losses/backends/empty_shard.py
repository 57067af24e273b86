"""The backend where one side has no rows: nothing to compute, but other ranks wait for the sums.

Shapes: N rows of a, M rows of b, one of them 0, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.backends.base import LossBackend, SoftmaxSums, accumulation_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels


class EmptyShardBackend(LossBackend):
    """Empty sums and no gradients."""

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        del scale, labels, gradients
        zero_N, zero_M = (x.new_zeros(len(x), dtype=accumulation_dtype(a, b)) for x in (a, b))
        never = torch.zeros((), dtype=torch.bool, device=a.device)
        return SoftmaxSums(zero_N - torch.inf, zero_M - torch.inf, zero_N, zero_M, never)

    def gradients(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, **rest: Any
    ) -> tuple[Tensor, Tensor]:
        """See ``LossBackend``."""
        del scale, labels, rest
        a_grad, b_grad = (x.new_zeros(x.shape, dtype=accumulation_dtype(a, b)) for x in (a, b))
        return a_grad, b_grad

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        del gradients
        return a.new_zeros((), dtype=accumulation_dtype(a, b)), *self.gradients(a, b, scale, labels)

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
        del bias
        zero, a_grad, b_grad = self.one_sided(a, b, scale, labels, gradients=gradients)
        return zero, a_grad, b_grad, zero
