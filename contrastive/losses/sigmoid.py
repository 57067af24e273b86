"""The sigmoid loss of SigLIP with a learned temperature and bias.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.distributed.global_batch import pair_shards
from contrastive.losses import Sigmoid
from contrastive.losses.auto_execution import choose, choose_for, described
from contrastive.losses.execution import all_logits, gather_global_batch, sigmoid
from contrastive.losses.functional import accuracy, sigmoid_from_logits
from contrastive.losses.module import ScaledLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup


class SigmoidLoss(ScaledLoss[Sigmoid]):
    """Every pair a binary classification; ``functional.sigmoid`` has the equation."""

    reads_autocast = True  # ``matmul_dtype: auto`` does

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
        config, positives = self.config, self.config.positives
        shards = pair_shards(a, b, group)
        how = choose_for(config.execution, a, b, matmul_dtype=config.matmul_dtype, shards=shards)
        if how == "eager" and (config.exchange == "gather" or shards is None):
            a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=shards)
            logits_NM = all_logits(
                a, b, log_scale=self.log_scale, bias=self.bias, matmul_dtype=config.matmul_dtype
            )
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
            execution="chunked" if how == "eager" else how,
            matmul_dtype=config.matmul_dtype,
            exchange=config.exchange,
            group=shards,
        )
        return loss, {}

    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return the execution that such a batch gets."""
        how = self.config.execution
        matmul_dtype = self.config.matmul_dtype
        how = choose(how, n, m, dim, dtype=dtype, device=device, matmul_dtype=matmul_dtype)
        return described(how, matmul_dtype, device)
