"""One tower's part of a training step: its inputs, or features from the cache, to embeddings.

Shapes: B samples, F the features' width, D the embedding's.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from contrastive.training.gradient_cache import (
    forward_in_micro_batches,
    moved_to,
    pieces_of,
    running_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from contrastive.model.tower import TowerModule
    from contrastive.training.gradient_cache import BatchNormMode, Convert


def embed(
    tower: TowerModule,
    inputs: Mapping[str, Tensor],
    *,
    rows: int | None,
    batch_norm: BatchNormMode = "train",
    device: torch.device | None = None,
    convert: Convert = dict,
) -> Tensor:
    """Return ``tower(**inputs)``, by micro-batches; arguments as in ``forward_in_micro_batches``.

    A frozen encoder has no activations to drop, so that it runs once; its head then takes the
    features of the whole batch.
    """
    if not tower.encoder_frozen:
        return forward_in_micro_batches(
            tower, inputs, rows=rows, batch_norm=batch_norm, device=device, convert=convert
        )
    pieces = (convert(moved_to(piece, device)) for piece in pieces_of(inputs, rows))
    features = [tower.encode(**piece) for piece in pieces]
    return project(tower, torch.cat(features), batch_norm=batch_norm)


def project(
    tower: TowerModule, features_BF: Tensor, *, batch_norm: BatchNormMode = "train"
) -> Tensor:
    """Return ``tower.project(features_BF)``, with BatchNorm as in ``forward_in_micro_batches``."""
    with running_statistics(tower) if batch_norm == "eval" else nullcontext():
        return tower.project(features_BF)
