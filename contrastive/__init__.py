"""Contrastive learning from a typed spec: encoders, heads, losses and data by name.

Every public name is imported when it is asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from contrastive.version import INTERFACE, __version__

if TYPE_CHECKING:
    from contrastive.errors import ContrastiveError
    from contrastive.evaluation.comparison import compare
    from contrastive.evaluation.evaluate import evaluate
    from contrastive.evaluation.probe import probe
    from contrastive.features.cache import FeatureCache
    from contrastive.inference.captioning import caption
    from contrastive.inference.generation import generate, rerank
    from contrastive.inference.question_answering import answer
    from contrastive.inference.zero_shot import classify
    from contrastive.model.loading import build_model, load_model
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import EvaluationSpec, ModelSpec, RunSpec, Tower, TrainingSpec
    from contrastive.training.train import train

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
    "__version__",
    "answer",
    "build_model",
    "caption",
    "classify",
    "compare",
    "evaluate",
    "generate",
    "load_model",
    "probe",
    "rerank",
    "train",
]

_HOMES = {
    "ContrastiveError": "errors",
    "ContrastiveModel": "model.model",
    "EvaluationSpec": "spec",
    "FeatureCache": "features.cache",
    "ModelSpec": "spec",
    "RunSpec": "spec",
    "Tower": "spec",
    "TrainingSpec": "spec",
    "answer": "inference.question_answering",
    "build_model": "model.loading",
    "caption": "inference.captioning",
    "classify": "inference.zero_shot",
    "compare": "evaluation.comparison",
    "evaluate": "evaluation.evaluate",
    "generate": "inference.generation",
    "load_model": "model.loading",
    "probe": "evaluation.probe",
    "rerank": "inference.generation",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Import the module in which ``name`` lives (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"contrastive.{_HOMES[name]}"), name)
