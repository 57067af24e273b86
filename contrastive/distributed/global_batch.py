"""Several processes, one batch: what a loss needs of ``torch.distributed``.

The loss of W processes is the loss of the whole batch on one: its value is the same number on every
process. Its gradients on one process are W times that process's share, so that their mean over the
processes, which is what ``DistributedDataParallel`` takes, is the gradient of the whole batch. That
holds for the towers and for ``log_scale`` and ``bias`` alike.

The whole batch is in one order on every process: the partners of process 0, of process 1 and so
on, then the rows without a partner of process 0, of process 1 and so on. So row i of a and row i of
b remain partners, and those beyond remain without.

Shapes: n rows of this process, N of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from contrastive.distributed.collectives import all_gather, all_reduce, reduce_scatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.distributed import ProcessGroup


class BatchGroup:
    """The processes that share a batch, in the order of their ranks."""

    def __init__(self, process_group: ProcessGroup | None = None) -> None:
        """Take the processes of ``process_group``; all of them if None."""
        self.process_group = process_group
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)

    @classmethod
    def current(cls) -> BatchGroup | None:
        """Return the processes that were initialised, or None if this one is alone."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return None
        return cls()

    def pair_shards(self, a: Tensor, b: Tensor) -> PairShards:
        """Return how the rows of a and of b are divided; every process calls it with its own.

        Raises:
            ValueError: one process has more rows of a than of b and another has fewer, so that
                rows without a partner would meet as if they were partners.
        """
        # numbers of the CPU go by the CPU where the group can, which does not wait for a GPU
        here = (
            torch.device("cpu")
            if "cpu:" in dist.get_backend_config(self.process_group)
            else a.device
        )
        found = torch.empty(self.size, 2, dtype=torch.int64, device=here)
        own = torch.tensor([[len(a), len(b)]], device=here)
        all_gather(found, own, self.process_group)
        counts = cast("list[list[int]]", found.T.tolist())
        n, m = (tuple(side) for side in counts)
        partners = tuple(map(min, n, m))
        if partners not in (n, m):
            msg = (
                f"the processes have {list(n)} rows of a and {list(m)} of b; rows without a "
                "partner have to be all of a or all of b"
            )
            raise ValueError(msg)
        return PairShards(RowShards(self, n, partners), RowShards(self, m, partners))

    def all_reduce_sum(self, *parts: Tensor) -> list[Tensor]:
        """Return the sum of each part over the processes; all are of one type."""
        flat = torch.cat([x.flatten() for x in parts])
        all_reduce(flat, self.process_group)
        sums = cast("Any", flat.split([x.numel() for x in parts]))
        return [y.view_as(x) for x, y in zip(parts, sums, strict=True)]

    def all_reduce_max(self, x: Tensor) -> Tensor:
        """Return the largest of each number over the processes."""
        x = x.clone()
        all_reduce(x, self.process_group, maximum=True)
        return x


@dataclass(frozen=True)
class PairShards:
    """How the whole batch is divided among the processes."""

    rows: RowShards
    """Of a."""
    columns: RowShards
    """Of b."""

    def swapped(self) -> PairShards:
        """Return the same with a and b exchanged."""
        return PairShards(self.columns, self.rows)


@dataclass(frozen=True)
class RowShards:
    """The rows of one side of the whole batch: who has which."""

    group: BatchGroup
    counts: tuple[int, ...]
    """How many rows each process has."""
    partners: tuple[int, ...]
    """How many of them have a partner; they are the first ones."""

    @property
    def total(self) -> int:
        """How many rows the whole batch has, N."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """Where in the whole batch the partners of this process begin."""
        return sum(self.partners[: self.group.rank])

    @property
    def own_partners(self) -> int:
        """How many rows of this process have a partner."""
        return self.partners[self.group.rank]

    @property
    def all_have_partners(self) -> bool:
        """Whether the rows of each process are next to each other in the whole batch."""
        return self.counts == self.partners

    def own(self, x: Tensor) -> Tensor:
        """Return the rows ``[n, ...]`` of this process among ``x`` ``[N, ...]`` of all."""
        partners, beyond = self._places()[self.group.rank]
        return x[partners] if self.all_have_partners else torch.cat([x[partners], x[beyond]])

    def all_gather(self, x: Tensor) -> Tensor:
        """Return the rows ``[N, ...]`` of all processes, ``x`` ``[n, ...]`` being this one's."""
        longest = max(self.counts)
        if missing := longest - len(x):
            x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
        together = x.new_empty(self.group.size * longest, *x.shape[1:])
        all_gather(together, x.contiguous(), self.group.process_group)
        if self._even:
            return together
        blocks, whole = together.view(-1, *x.shape), x.new_empty(self.total, *x.shape[1:])
        for block, n, (partners, beyond) in self._each(blocks):
            k = partners.stop - partners.start
            whole[partners], whole[beyond] = block[:k], block[k:n]
        return whole

    def all_gather_with_gradient(self, x: Tensor) -> Tensor:
        """Return ``gather(x)``, for a loss that every process computes in full.

        The gradient is that of the rows of this process, times the number of processes.
        """
        return cast("Tensor", _Gather.apply(x, self))

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """Return the rows ``[n, ...]`` of this process of the sum of all ``x`` ``[N, ...]``."""
        longest = max(self.counts)
        together = x
        if not self._even:
            blocks = x.new_zeros(self.group.size, longest, *x.shape[1:])
            for block, n, (partners, beyond) in self._each(blocks):
                k = partners.stop - partners.start
                block[:k], block[k:n] = x[partners], x[beyond]
            together = blocks.flatten(0, 1)
        mine = x.new_empty(longest, *x.shape[1:])
        reduce_scatter(mine, together.contiguous(), self.group.process_group)
        return mine[: self.counts[self.group.rank]]

    @property
    def _even(self) -> bool:
        """Whether the whole batch is the processes' blocks, one after the other."""
        return self.all_have_partners and len(set(self.counts)) == 1

    def _each(self, blocks: Tensor) -> Iterator[tuple[Tensor, int, tuple[slice, slice]]]:
        """Go through the processes: block, number of rows, and their places in the whole batch."""
        return zip(blocks, self.counts, self._places(), strict=True)

    def _places(self) -> list[tuple[slice, slice]]:
        """Return where in the whole batch each process's partners are, and its other rows."""
        others = [n - k for n, k in zip(self.counts, self.partners, strict=True)]
        first, then = _slices(self.partners, start=0), _slices(others, start=sum(self.partners))
        return list(zip(first, then, strict=True))


def _slices(sizes: Sequence[int], *, start: int) -> list[slice]:
    """Return slices of these sizes, one after the other."""
    ends = list(accumulate(sizes, initial=start))
    return [slice(first, last) for first, last in pairwise(ends)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: RowShards) -> Tensor:
        ctx.rows = rows
        return rows.all_gather(x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, None]:
        return ctx.rows.own(outer[0]) * ctx.rows.group.size, None
