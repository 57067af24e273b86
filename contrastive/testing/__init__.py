"""Checks for any implementation, a plugin's as well as the built-in ones.

The public names are imported lazily, as they import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name (PEP 562)."""
    for module in ("checks", "measure", "losses", "components") if name in __all__ else ():
        found = getattr(import_module(f"contrastive.testing.{module}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module 'contrastive.testing' has no attribute {name!r}")
