"""The loss of one training step: a batch is embedded, and its modalities are compared in pairs.

Shapes: B rows, D the shared width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.training.tower_forward import embed, project

if TYPE_CHECKING:
    from contrastive.model.model import ContrastiveModel, EmbeddingViews
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch


def step_loss(
    model: ContrastiveModel, batch: Batch, settings: TrainingSpec, *, dtype: torch.dtype | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its metrics; the towers are autocast to ``dtype``.

    Raises:
        TrainingError: the two views of a modality do not differ.
    """
    with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        views = embedded(model, batch, settings)
    with loss_autocast(model, dtype):
        return model.pair_loss(views, batch.ids.to(model.device))


def loss_autocast(model: ContrastiveModel, dtype: torch.dtype | None) -> torch.autocast:
    """Return the autocast in which a step calls the loss: bf16's, of a loss that reads it.

    Products in fp16 would take the scaled gradients of the loss beyond its range.
    """
    enabled = dtype is torch.bfloat16 and model.loss.reads_autocast
    return torch.autocast(model.device.type, torch.bfloat16, enabled=enabled)


def embedded(model: ContrastiveModel, batch: Batch, settings: TrainingSpec) -> EmbeddingViews:
    """Return the embeddings of a batch, one or two views of each modality."""
    return {
        modality: embedded_by(model, modality, batch, settings, rows=settings.micro_batch)
        for modality in model.towers
    }


def embedded_by(
    model: ContrastiveModel,
    modality: str,
    batch: Batch,
    settings: TrainingSpec,
    *,
    rows: int | None,
) -> list[Tensor]:
    """Return the views of one modality; its tower takes ``rows`` at a time."""
    device, tower = model.device, model.tower(modality)
    if modality in batch.features:
        features = batch.features[modality].to(device)
        views = range(model.spec.views(modality))
        return [project(tower, features, batch_norm=settings.batch_norm) for _ in views]
    convert, batch_norm = batch.convert.get(modality, dict), settings.batch_norm
    return [
        embed(tower, x, rows=rows, batch_norm=batch_norm, device=device, convert=convert)
        for x in batch.inputs[modality]
    ]
