"""Contrastive learning from a typed spec: encoders, heads, losses and data by name.

Every public name is imported when it is asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.errors import ContrastiveError
    from contrastive.features.cache import FeatureCache
    from contrastive.inference.captioning import caption
    from contrastive.inference.question_answering import answer
    from contrastive.inference.zero_shot import classify
    from contrastive.model.model import ContrastiveModel, build_model, load_model
    from contrastive.spec import EvaluationSpec, ModelSpec, RunSpec, Tower, TrainingSpec

__version__ = "0.1.0"

INTERFACE = 1
"""Version of what plugins are written against: the interface classes, the contracts of what they
build, and the entry-point groups. It rises when a component that fitted would have to change."""

__all__ = [
    "INTERFACE",
    "ContrastiveError",
    "ContrastiveModel",
    "EvaluationSpec",
    "FeatureCache",
    "ModelSpec",
    "RunSpec",
    "Tower",
    "TrainingSpec",
    "answer",
    "build_model",
    "caption",
    "classify",
    "load_model",
]

_HOMES = {
    "ContrastiveError": "errors",
    "ContrastiveModel": "model",
    "EvaluationSpec": "spec",
    "FeatureCache": "cache",
    "ModelSpec": "spec",
    "RunSpec": "spec",
    "Tower": "spec",
    "TrainingSpec": "spec",
    "answer": "answering",
    "build_model": "model",
    "caption": "captioning",
    "classify": "zero_shot",
    "load_model": "model",
}


def __getattr__(name: str) -> Any:
    """Import the module in which ``name`` lives (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"contrastive.{_HOMES[name]}"), name)
