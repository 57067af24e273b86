"""Loss scaling, without which gradients vanish in fp16: its smallest number is 6e-8.

The loss is multiplied by a scale before the backward pass, the gradients are divided by it after.
Where they overflow nevertheless, the step is left out and the scale halves; after many steps in
which they do not, it doubles. That is dynamic loss scaling (Micikevicius et al. 2018, "Mixed
Precision Training", arXiv:1710.03740), with torch's constants. All of it stays on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from contrastive.nn.sharded_tensors import own_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**24
"""The scale at first. A gradient that overflows at the least is the model's; the most keeps
gradients that are zero from scaling up for ever."""
PATIENCE = 2000  # steps without an overflow until the scale doubles


class LossScale:
    """The scale of a run's loss; the same on all ranks, whose gradients are."""

    def __init__(self, device: torch.device, state: Mapping[str, float] | None = None) -> None:
        """Begin, or go on where a run was saved."""
        known = {"scale": FIRST, "since": 0.0, "skipped": 0.0} | dict(state or {})
        self.scale = torch.tensor(known["scale"], device=device)
        self._since = torch.tensor(known["since"], device=device)
        self.skipped = torch.tensor(known["skipped"], device=device)
        """Steps that were left out."""

    @torch.no_grad()
    def unscale_(self, gradients: Iterable[Tensor]) -> None:
        """Divide gradients by the scale; it is a power of two, so that none is rounded."""
        inverse = self.scale.reciprocal()
        for gradient in gradients:
            own_part(gradient).mul_(inverse)

    @torch.no_grad()
    def update_(self, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """Adapt the scale after a step; return 1 if that overflowed, else 0.

        A loss that is not finite is no overflow of gradients: a smaller scale would not help.
        """
        over = loss.isfinite() & ~gradient_norm.isfinite() & (self.scale > LEAST)
        self._since.add_(1).mul_(~over)
        grown = self._since >= PATIENCE
        self._since.mul_(~grown)
        factor = 1 - 0.5 * over.float() + grown.float()
        self.scale.mul_(factor).clamp_(LEAST, MOST)
        self.skipped.add_(over)
        return over.float()

    def state(self) -> dict[str, float]:
        """Return what a checkpoint holds of it; this waits for the device."""
        return {
            "scale": self.scale.item(),
            "since": self._since.item(),
            "skipped": self.skipped.item(),
        }
