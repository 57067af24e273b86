"""What each of two processes does in the tests: its rows of a batch, one loss after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from contrastive_metric_learning import Circle, MetricLoss, NTXent, TripletMargin
from contrastive_metric_learning.miners import BatchHard, MultiSimilarity
from safetensors.torch import save_file
from torch import distributed as dist
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from pathlib import Path

SHARES = slice(0, 5), slice(5, 8)
LOSSES: dict[str, MetricLoss] = {
    "triplet": TripletMargin(margin=0.5, miner=BatchHard()),
    "circle": Circle(miner=MultiSimilarity(), candidates="both"),
    "nt-xent": NTXent(),
    "local": TripletMargin(margin=0.5, negatives="local"),
}


def outcome(config: MetricLoss, rows: slice) -> dict[str, torch.Tensor]:
    """Return the loss of some rows of the batch, and its gradients."""
    random = torch.Generator().manual_seed(0)
    whole = [normalize(torch.randn(8, 6, generator=random, dtype=torch.float64)) for _ in "ab"]
    a, b = (x[rows].clone().requires_grad_() for x in whole)
    loss, figures = config.build()(a, b, torch.tensor([0, 1, 2, 3, 4, 0, 5, 1])[rows])
    loss.backward()
    return {"loss": loss.detach(), "a": a.grad, "b": b.grad, "accuracy": figures["accuracy"]}


def main(rank: int, size: int, folder: Path) -> None:
    """Be one of the processes; leave what it found in the folder."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    found = {
        f"{name}|{key}": x
        for name, config in LOSSES.items()
        for key, x in outcome(config, SHARES[rank]).items()
    }
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()
