"""Suites that any implementation can be put through, a plugin's as well as the built-in ones.

Every public name is imported when it is asked for, and imports torch then.
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

_HOMES = {
    "LossCase": "losses",
    "Tolerance": "measure",
    "Verdict": "checks",
    "check_component": "components",
    "check_loss": "losses",
    "examine_component": "components",
    "loss_cases": "losses",
}


def __getattr__(name: str) -> Any:
    """Import the module in which ``name`` lives (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive.testing' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"contrastive.testing.{_HOMES[name]}"), name)
