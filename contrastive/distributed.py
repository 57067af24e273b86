"""Several processes, one batch: what a loss needs of ``torch.distributed``.

The loss of W processes is the loss of the whole batch on one: its value is the same number on every
process. Its gradients on one process are W times that process's share, so that their mean over the
processes, which is what ``DistributedDataParallel`` takes, is the gradient of the whole batch. That
holds for the towers and for ``log_scale`` and ``bias`` alike.

Shapes: n rows of this process, N of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class World:
    """The processes that share a batch, in the order of their ranks."""

    def __init__(self, group: ProcessGroup | None = None) -> None:
        """Take the processes of ``group``; all of them if None."""
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    @classmethod
    def current(cls) -> World | None:
        """Return the processes that were initialised, or None if this one is alone."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return None
        return cls()

    def counts(self, n: int, device: torch.device) -> list[int]:
        """Return how many rows each process has, this one having ``n``."""
        own = torch.tensor([n], device=device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self.group)
        return [int(count) for count in torch.cat(found)]

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows ``[N, ...]`` of all processes, ``x`` ``[n, ...]`` being this one's."""
        counts = self.counts(len(x), x.device)
        longest = max(counts)
        padded = pad(x, (0, 0) * (x.ndim - 1) + (0, longest - len(x))).contiguous()
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    def gather_with_gradient(self, x: Tensor) -> Tensor:
        """Return ``gather(x)``, for a loss that every process computes in full.

        The gradient is that of the rows of this process, times the number of processes.
        """
        return cast("Tensor", _Gather.apply(x, self))

    def scatter(self, x: Tensor, n: int) -> Tensor:
        """Return the ``n`` rows of this process of the sum of all processes' ``x`` ``[N, ...]``."""
        start = sum(self.counts(n, x.device)[: self.rank])
        return self.sum(x)[start : start + n]

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of ``x`` over the processes."""
        x = x.clone()
        dist.all_reduce(x, group=self.group)
        return x

    def logsumexp(self, x: Tensor) -> Tensor:
        """Return the logarithm of the sum of ``exp(x)`` over the processes."""
        peak = x.clone()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=self.group)
        peak = peak.masked_fill(peak == -torch.inf, 0)
        return self.sum((x - peak).exp()).log() + peak


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world, ctx.n = world, len(x)
        ctx.start = sum(world.counts(len(x), x.device)[: world.rank])
        return world.gather(x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, None]:
        return outer[0][ctx.start : ctx.start + ctx.n] * ctx.world.size, None
