"""Contrastive learning from a typed spec: encoders, heads, losses and data by name.

Every public name is imported when it is asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.lazy_names import lazy_names
from contrastive.version import INTERFACE, __version__

if TYPE_CHECKING:
    from contrastive.curation.shard_data import shard_data
    from contrastive.doctor import diagnose
    from contrastive.errors import ContrastiveError
    from contrastive.evaluation.calibration import calibrate
    from contrastive.evaluation.caption_choice import compositional
    from contrastive.evaluation.comparison import compare
    from contrastive.evaluation.evaluate import evaluate
    from contrastive.evaluation.probe import probe
    from contrastive.exporters import export
    from contrastive.exporters.model_card import model_card
    from contrastive.features.cache import FeatureCache
    from contrastive.features.inventory import list_cache
    from contrastive.features.pruning import prune_cache
    from contrastive.features.verification import verify_cache
    from contrastive.indexes.index import Index
    from contrastive.inference.captioning import caption
    from contrastive.inference.embed import embed
    from contrastive.inference.embedding_folder import EmbeddingFolder
    from contrastive.inference.generation import generate, rerank
    from contrastive.inference.index_building import (
        add_to_index,
        build_index,
        remove_from_index,
        update_index,
    )
    from contrastive.inference.index_rows import IndexChange
    from contrastive.inference.question_answering import answer
    from contrastive.inference.search import search
    from contrastive.inference.zero_shot import classify
    from contrastive.model.loading import build_model, load_model
    from contrastive.model.model import ContrastiveModel
    from contrastive.recipe.callback import Callback
    from contrastive.spec import EvaluationSpec, ModelSpec, RunSpec, Tower, TrainingSpec, load_spec
    from contrastive.training.train import train

__all__ = [
    "INTERFACE",
    "Callback",
    "ContrastiveError",
    "ContrastiveModel",
    "EmbeddingFolder",
    "EvaluationSpec",
    "FeatureCache",
    "Index",
    "IndexChange",
    "ModelSpec",
    "RunSpec",
    "Tower",
    "TrainingSpec",
    "__version__",
    "add_to_index",
    "answer",
    "build_index",
    "build_model",
    "calibrate",
    "caption",
    "classify",
    "compare",
    "compositional",
    "diagnose",
    "embed",
    "evaluate",
    "export",
    "generate",
    "list_cache",
    "load_model",
    "load_spec",
    "model_card",
    "probe",
    "prune_cache",
    "remove_from_index",
    "rerank",
    "search",
    "shard_data",
    "train",
    "update_index",
    "verify_cache",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "curation.shard_data": "shard_data",
        "doctor": "diagnose",
        "errors": "ContrastiveError",
        "model.model": "ContrastiveModel",
        "spec": "EvaluationSpec ModelSpec RunSpec Tower TrainingSpec load_spec",
        "features.cache": "FeatureCache",
        "features.inventory": "list_cache",
        "features.pruning": "prune_cache",
        "features.verification": "verify_cache",
        "indexes.index": "Index",
        "inference.index_building": "add_to_index build_index remove_from_index update_index",
        "inference.index_rows": "IndexChange",
        "inference.question_answering": "answer",
        "model.loading": "build_model load_model",
        "inference.captioning": "caption",
        "inference.embed": "embed",
        "inference.embedding_folder": "EmbeddingFolder",
        "inference.search": "search",
        "inference.zero_shot": "classify",
        "evaluation.calibration": "calibrate",
        "evaluation.caption_choice": "compositional",
        "evaluation.comparison": "compare",
        "evaluation.evaluate": "evaluate",
        "exporters": "export",
        "exporters.model_card": "model_card",
        "inference.generation": "generate rerank",
        "evaluation.probe": "probe",
        "recipe.callback": "Callback",
        "training.train": "train",
    },
)
