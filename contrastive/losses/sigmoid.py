"""The sigmoid loss of SigLIP with a learned temperature and bias.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.losses import Sigmoid
from contrastive.losses.execution import Chosen, choose, gather_global_batch, sigmoid
from contrastive.losses.functional import accuracy, sigmoid_from_logits
from contrastive.losses.module import ScaledLoss

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup


class SigmoidLoss(ScaledLoss[Sigmoid]):
    """Every pair a binary classification; ``functional.sigmoid`` has the equation."""

    def compute(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        group: BatchGroup | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; metric, where all logits are at hand: accuracy."""
        assert self.bias is not None
        positives = self.config.positives
        how = self.execution(a, b)
        if how == "eager":
            a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=group)
            logits_NM = self.logits(a, b)
            loss = sigmoid_from_logits(logits_NM, a_ids, b_ids, positives=positives)
            return loss, {"accuracy": accuracy(logits_NM, a_ids, b_ids)}
        loss = sigmoid(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=self.log_scale,
            bias=self.bias,
            positives=positives,
            execution=how,
            products=self.config.products,
            group=group,
        )
        return loss, {}

    def execution(self, a: Tensor, b: Tensor) -> Chosen:
        """Return the execution that such embeddings get."""
        config = self.config
        return choose(config.execution, a, b, self.batch_group(), products=config.products)
