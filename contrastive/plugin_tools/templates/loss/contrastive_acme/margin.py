"""InfoNCE with a margin.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from contrastive.interface import ScaledLoss, accuracy, gather_global_batch, infonce_from_logits

from contrastive_acme import AcmeLoss

if TYPE_CHECKING:
    from contrastive.interface import BatchGroup
    from torch import Tensor


class AcmeLossModule(ScaledLoss[AcmeLoss]):
    """Owns the temperature, which ``ScaledLoss`` learns, bounds and logs."""

    def compute(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        group: BatchGroup | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss over the batch of all processes, and the accuracy for the log."""
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=group)
        logits_NM = self.logits(a, b)
        margin = self.config.margin * self.log_scale.exp()
        harder_NM = logits_NM - margin * _positives(logits_NM, a_ids, b_ids)
        loss = infonce_from_logits(harder_NM, a_ids, b_ids)
        return loss, {"accuracy": accuracy(logits_NM, a_ids, b_ids)}


def _positives(logits_NM: Tensor, a_ids: Tensor | None, b_ids: Tensor | None) -> Tensor:
    """Return ``[N, M]``, 1 where the ids are equal; without ids, where the row is the column."""
    if a_ids is None:
        return torch.eye(*logits_NM.shape, device=logits_NM.device)
    b_ids = a_ids if b_ids is None else b_ids
    return (a_ids[:, None] == b_ids[None, :]).to(logits_NM.dtype)
