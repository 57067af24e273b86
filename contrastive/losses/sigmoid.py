"""The sigmoid loss of SigLIP with a learned temperature and bias.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from contrastive.losses.functional import accuracy, collisions, sigmoid_from_logits, similarity
from contrastive.losses.module import LossModule

if TYPE_CHECKING:
    from contrastive.losses import Positives


class SigmoidLoss(LossModule):
    """Every pair a binary classification; ``functional.sigmoid`` has the equation."""

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        bias: float = -10.0,
        max_scale: float = 100.0,
        positives: Positives = "multi",
    ) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.positives: Positives = positives
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature), dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))

    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; figures: accuracy, collisions among the rows of a, log_scale, bias."""
        loss, figures = eager(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=self.log_scale,
            bias=self.bias,
            positives=self.positives,
        )
        ids = torch.arange(len(a), device=a.device) if a_ids is None else a_ids
        figures |= {
            "collisions": collisions(ids),
            "log_scale": self.log_scale.detach().clone(),
            "bias": self.bias.detach().clone(),
        }
        return loss, figures

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the logit scale within ``[1, max_scale]``; the bias has no bounds."""
        self.log_scale.clamp_(0.0, math.log(self.max_scale))

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[N, M]`` logits as the loss sees them: ``s * a @ b.T + bias``, in fp32."""
        return similarity(a, b, log_scale=self.log_scale, bias=self.bias)


def eager(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    log_scale: Tensor,
    bias: Tensor,
    positives: Positives,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``functional.sigmoid``, and the figures that its logits give away for nothing."""
    logits_NM = similarity(a, b, log_scale=log_scale, bias=bias)
    loss = sigmoid_from_logits(logits_NM, a_ids, b_ids, positives=positives)
    return loss, {"accuracy": accuracy(logits_NM, a_ids, b_ids)}
