"""A loss of pytorch-metric-learning under the contract of ours.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from contrastive.interface import (
    BatchGroup,
    LossModule,
    accuracy,
    check_pair_counts,
    collisions,
    gather_global_batch,
    matched_ids,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from contrastive_metric_learning import MetricLoss


class MetricLossModule(LossModule):
    """Embeddings and group ids to the library's loss, whose labels the group ids are."""

    def __init__(self, config: MetricLoss, loss: nn.Module, miner: nn.Module | None) -> None:
        """Hold the library's loss and its miner; nothing here is trained."""
        super().__init__()
        self.config = config
        self.library_loss = loss
        self.miner = miner
        self.register_buffer("log_scale", torch.tensor(-math.log(config.temperature)))

    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; metrics: accuracy between the sides, collisions and log_scale.

        Every process computes the loss of the whole batch. It is in fp32 also under autocast, and
        in float64 for float64 embeddings.

        Raises:
            ValueError: there are no pairs, or the ids do not fit the embeddings.
        """
        collided = collisions(torch.arange(len(a), device=a.device) if a_ids is None else a_ids)
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=self.batch_group())
        check_pair_counts(len(a), len(b))
        a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
        if a_ids is None or b_ids is None:
            a_ids, b_ids = (torch.arange(len(x), device=x.device) for x in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
            loss = self._between(a, b, a_ids, b_ids)
        with torch.no_grad():
            found = accuracy(self.logits(a, b), a_ids, b_ids)
        log_scale = self.log_scale.detach().clone()
        return loss, {"accuracy": found, "collisions": collided, "log_scale": log_scale}

    def batch_group(self) -> BatchGroup | None:
        """Return all processes, unless ``negatives`` are local."""
        return BatchGroup.current() if self.config.negatives == "global" else None

    def _between(self, a: Tensor, b: Tensor, a_ids: Tensor, b_ids: Tensor) -> Tensor:
        if self.config.candidates == "both":
            return self._of(torch.cat([a, b]), torch.cat([a_ids, b_ids]))
        # To the library, one object twice is one set, in which row i is no positive of itself.
        b, b_ids = b.view_as(b), b_ids.view_as(b_ids)
        there, back = (a, a_ids, b, b_ids), (b, b_ids, a, a_ids)
        sides = {"both": (there, back), "a_to_b": (there,), "b_to_a": (back,)}
        found = [
            self._of(rows, labels, ref_emb=others, ref_labels=other_labels)
            for rows, labels, others, other_labels in sides[self.config.direction]
        ]
        return torch.stack(found).mean()

    def _of(self, rows: Tensor, labels: Tensor, **others: Tensor) -> Tensor:
        """Return the loss of rows among themselves, or of anchors among others."""
        mined = None if self.miner is None else self.miner(rows, labels, **others)
        return self.library_loss(rows, labels, mined, **others)
