"""InfoNCE with a learned temperature.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from contrastive.losses.functional import accuracy, collisions, infonce_from_logits, similarity
from contrastive.losses.module import LossModule

if TYPE_CHECKING:
    from contrastive.losses import Positives


class InfoNCELoss(LossModule):
    """Symmetric InfoNCE; ``functional.infonce`` has the equation."""

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        max_scale: float = 100.0,
        positives: Positives = "multi",
    ) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.positives: Positives = positives
        log_scale = torch.tensor(-math.log(temperature), dtype=torch.float32)
        if learn_temperature:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; figures: accuracy, collisions among the rows of a, log_scale."""
        loss, figures = eager(
            a, b, a_ids, b_ids, log_scale=self.log_scale, positives=self.positives
        )
        ids = torch.arange(len(a), device=a.device) if a_ids is None else a_ids
        figures |= {"collisions": collisions(ids), "log_scale": self.log_scale.detach().clone()}
        return loss, figures

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the logit scale within ``[1, max_scale]``."""
        self.log_scale.clamp_(0.0, math.log(self.max_scale))


def eager(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    log_scale: Tensor,
    positives: Positives,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return ``functional.infonce``, and the figures that its logits give away for nothing."""
    logits_NM = similarity(a, b, log_scale=log_scale)
    loss = infonce_from_logits(logits_NM, a_ids, b_ids, positives=positives)
    return loss, {"accuracy": accuracy(logits_NM, a_ids, b_ids)}
