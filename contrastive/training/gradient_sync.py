"""The gradients of all ranks become one: an all-reduce after the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel


def all_reduce_gradients_(model: ContrastiveModel, ranks: Ranks, loss: Tensor) -> None:
    """Replace the loss and each gradient by the mean over the ranks.

    Each rank's gradient is W times its share, so that the mean is that of the global batch.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    unused = [p.grad is None for p in trained]
    if ranks.size > 1 and ranks.all_reduce_max(int(any(unused))):
        # what this rank's rows did not use, but another's did, has a gradient of zero here
        used = torch.tensor([not each for each in unused], dtype=torch.float32, device=model.device)
        ranks.all_reduce_mean_([used])
        for p, share in zip(trained, used, strict=True):
            if p.grad is None and share > 0:
                p.grad = torch.zeros_like(p)
    ranks.all_reduce_mean_([loss, *(p.grad for p in trained if p.grad is not None)])
