"""The loss of one training step: a batch is embedded, and its modalities are compared in pairs.

Shapes: B rows, D the shared width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.errors import TrainingError
from contrastive.training.gradient_cache import embed

if TYPE_CHECKING:
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch

EmbeddingViews = dict[str, list[Tensor]]
"""Embeddings ``[B, D]`` by modality: two for one that is compared with itself, else one."""


def step_loss(
    model: ContrastiveModel, batch: Batch, settings: TrainingSpec, *, bf16: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch and its metrics; with ``bf16``, the towers run in bf16.

    Raises:
        TrainingError: the two views of a modality do not differ.
    """
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        views = _embedded(model, batch, settings)
    return compare(model, views, batch.ids.to(model.device))


def compare(
    model: ContrastiveModel, views: EmbeddingViews, ids: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean of the losses of all pairs, and metrics.

    The metrics are those of the first pair; with several pairs, also the loss of each, as
    ``loss_image_text``.

    Args:
        model: whose loss, and whose pairs.
        views: embeddings.
        ids: ``[B]`` group ids.

    Raises:
        TrainingError: the two views of a modality do not differ.
    """
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    for a, b in model.spec.modality_pairs:
        first, second = views[a][0], views[b][-1]
        if a == b:
            _check_views_differ(a, first, second)
        loss, about = model.loss(first, second, ids, ids)
        losses[f"loss_{a}_{b}"] = loss
        metrics = metrics or about
    if len(losses) > 1:
        metrics = metrics | {name: loss.detach() for name, loss in losses.items()}
    return torch.stack(list(losses.values())).mean(), metrics


def _embedded(model: ContrastiveModel, batch: Batch, settings: TrainingSpec) -> EmbeddingViews:
    device = model.device
    views: EmbeddingViews = {}
    for modality in model.towers:
        tower = model.tower(modality)
        if modality in batch.features:
            features = batch.features[modality].to(device)
            views[modality] = [tower.project(features) for _ in range(model.spec.views(modality))]
        else:
            views[modality] = [
                embed(
                    tower,
                    inputs,
                    rows=settings.micro_batch,
                    batch_norm=settings.batch_norm,
                    device=device,
                )
                for inputs in batch.inputs[modality]
            ]
    return views


def _check_views_differ(modality: str, first: Tensor, second: Tensor) -> None:
    """Refuse identical views: each row would match itself, and nothing would be learned."""
    if torch.equal(first.detach(), second.detach()):
        msg = (
            f"the two views of each {modality} are the same; give towers.{modality} an augment "
            "or dropout, in what of it is trained"
        )
        raise TrainingError(msg)
