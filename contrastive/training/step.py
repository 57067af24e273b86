"""One training step: a batch is embedded, its modalities are compared in pairs, then backward.

Shapes: B rows, D the shared width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.training.foreign_gradients import told_by_part
from contrastive.training.gradient_sync import all_reduce_gradients_
from contrastive.training.tower_forward import embed, project

if TYPE_CHECKING:
    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel, EmbeddingViews
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch


def backward(
    model: ContrastiveModel, batch: Batch, settings: TrainingSpec, ranks: Ranks, *, bf16: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the gradients of the global batch; return its loss, and metrics."""
    with told_by_part(model):
        loss, metrics = step_loss(model, batch, settings, bf16=bf16)
        loss.backward()
    loss = loss.detach()
    all_reduce_gradients_(model, ranks, loss)
    return loss, metrics


def step_loss(
    model: ContrastiveModel, batch: Batch, settings: TrainingSpec, *, bf16: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its metrics; with ``bf16``, the towers run in bf16.

    Raises:
        TrainingError: the two views of a modality do not differ.
    """
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        views = embedded(model, batch, settings)
    with loss_autocast(model, bf16=bf16):
        return model.pair_loss(views, batch.ids.to(model.device))


def loss_autocast(model: ContrastiveModel, *, bf16: bool) -> torch.autocast:
    """Return the autocast in which a step with ``bf16`` calls the loss: only one that reads it."""
    enabled = bf16 and model.loss.reads_autocast
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
