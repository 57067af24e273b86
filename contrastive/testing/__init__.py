"""Checks for any implementation, a plugin's as well as the built-in ones.

The public names are imported lazily, as they import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.lazy_names import lazy_names

if TYPE_CHECKING:
    from contrastive.testing.checks import Verdict
    from contrastive.testing.components import check_component, examine_component
    from contrastive.testing.losses import LossCase, check_loss, loss_cases
    from contrastive.testing.measure import Tolerance

__all__ = [
    "LossCase",
    "Tolerance",
    "Verdict",
    "check_component",
    "check_loss",
    "examine_component",
    "loss_cases",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "testing.losses": "LossCase check_loss loss_cases",
        "testing.measure": "Tolerance",
        "testing.checks": "Verdict",
        "testing.components": "check_component examine_component",
    },
)
