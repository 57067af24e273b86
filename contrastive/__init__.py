"""Contrastive learning from a typed spec: encoders, heads, losses and data by name.

Nothing here imports torch until a function that needs it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.spec import ModelSpec, RunSpec, Tower

if TYPE_CHECKING:
    from contrastive.classify import classify
    from contrastive.evaluate import evaluate
    from contrastive.model import ContrastiveModel, build_model, load_model
    from contrastive.train import train

__version__ = "0.1.0"

__all__ = [
    "ContrastiveModel",
    "ModelSpec",
    "RunSpec",
    "Tower",
    "build_model",
    "classify",
    "evaluate",
    "load_model",
    "train",
]

_HOMES = {
    "ContrastiveModel": "contrastive.model",
    "build_model": "contrastive.model",
    "load_model": "contrastive.model",
    "classify": "contrastive.classify",
    "evaluate": "contrastive.evaluate",
    "train": "contrastive.train",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
