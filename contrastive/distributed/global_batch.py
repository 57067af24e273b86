"""The global batch: what a loss needs of ``torch.distributed``.

The loss of W ranks is the loss of the global batch on one: its value is the same number on every
rank. Its gradients on one rank are W times that rank's share, so that their mean over the ranks,
which is what ``DistributedDataParallel`` takes, is the gradient of the global batch. That holds for
the towers and for ``log_scale`` and ``bias`` alike.

The global batch is in one order on every rank: the matched rows of rank 0, of rank 1 and so on,
then the unmatched rows of rank 0, of rank 1 and so on. So row i of a and row i of b remain a
matched pair, and unmatched rows remain unmatched.

Shapes: n rows of this rank, N of all.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from contrastive.distributed.collectives import all_gather, all_reduce, reduce_scatter
from contrastive.errors import a_type

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from torch.distributed import ProcessGroup

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Generator[None]:
    """Within a block, let this process's batch be the whole one, as if there were no ranks."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def device_for_sizes(group: ProcessGroup | None, device: torch.device) -> torch.device:
    """Return the CPU where a group can exchange sizes on it, so that the host waits for no GPU."""
    return torch.device("cpu") if "cpu:" in dist.get_backend_config(group) else device


class BatchGroup:
    """The ranks that share a global batch.

    Example:
        >>> BatchGroup.current() is None  # one process
        True
    """

    def __init__(self, process_group: ProcessGroup | None = None) -> None:
        """Take the ranks of ``process_group``; all of them if None."""
        self.process_group = process_group
        self.rank = dist.get_rank(process_group)
        self.size = dist.get_world_size(process_group)

    @classmethod
    def current(cls) -> BatchGroup | None:
        """Return all ranks, or None if there is one or none was initialised."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return None  # asked first: torch.compile of torch 2.10 cannot read a context variable
        return None if _alone.get() else cls()

    def pair_shards(self, a: Tensor, b: Tensor) -> PairShards:
        """Return how the rows of a ``[N, D]`` and b ``[M, D]`` are sharded; every rank calls it.

        Raises:
            ValueError: one rank has more rows of a than of b and another has fewer, so that
                unmatched rows would become matched pairs.
        """
        here = device_for_sizes(self.process_group, a.device)
        found = torch.empty(self.size, 2, dtype=torch.int64, device=here)
        own = torch.tensor([[len(a), len(b)]], device=here)
        all_gather(found, own, self.process_group)
        counts = cast("list[list[int]]", found.T.tolist())
        n, m = (tuple(side) for side in counts)
        matched = tuple(map(min, n, m))
        if matched not in (n, m):
            msg = (
                f"the ranks have {list(n)} rows of a and {list(m)} of b; unmatched rows have to be "
                "all of a or all of b"
            )
            raise ValueError(msg)
        return PairShards(RowShards(self, n, matched), RowShards(self, m, matched))

    def all_reduce_sum(self, *parts: Tensor) -> list[Tensor]:
        """Return the sum of each part, of any shape, over the ranks; all have one dtype."""
        flat = torch.cat([x.flatten() for x in parts])  # one message instead of several
        all_reduce(flat, self.process_group)
        sums = cast("Any", flat.split([x.numel() for x in parts]))
        return [y.view_as(x) for x, y in zip(parts, sums, strict=True)]

    def all_reduce_max(self, x: Tensor) -> Tensor:
        """Return the elementwise maximum over the ranks of a tensor of any shape."""
        x = x.clone()
        all_reduce(x, self.process_group, maximum=True)
        return x


@dataclass(frozen=True)
class PairShards:
    """How the global batch is sharded over the ranks."""

    rows: RowShards
    """Of a."""
    columns: RowShards
    """Of b."""

    def swapped(self) -> PairShards:
        """Return the same with a and b exchanged."""
        return PairShards(self.columns, self.rows)


@dataclass(frozen=True)
class RowShards:
    """How the rows of one side of the global batch are sharded."""

    group: BatchGroup
    counts: tuple[int, ...]
    """How many rows each rank has."""
    matched: tuple[int, ...]
    """How many of them are matched; they come first."""

    @property
    def total(self) -> int:
        """How many rows the global batch has, N."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """Index in the global batch of this rank's first matched row."""
        return sum(self.matched[: self.group.rank])

    @property
    def own_matched(self) -> int:
        """How many rows of this rank are matched."""
        return self.matched[self.group.rank]

    @property
    def all_matched(self) -> bool:
        """Whether the rows of each rank are contiguous in the global batch."""
        return self.counts == self.matched

    @property
    def contiguous(self) -> RowShards:
        """The same rows in another order: one rank's after the other's, matched or not."""
        return RowShards(self.group, self.counts, self.counts)

    @property
    def order(self) -> Tensor:
        """``[N]``, where each row of the global batch is in that order."""
        order_N = torch.empty(self.total, dtype=torch.int64)
        starts = _slices(self.counts, start=0)
        for here, (matched, unmatched) in zip(starts, self._places(), strict=True):
            k = here.start + matched.stop - matched.start
            order_N[matched] = torch.arange(here.start, k)
            order_N[unmatched] = torch.arange(k, here.stop)
        return order_N

    def own(self, x: Tensor) -> Tensor:
        """Return the rows ``[n, ...]`` of this rank among ``x`` ``[N, ...]`` of all."""
        return self.of_rank(x, self.group.rank)

    def of_rank(self, x: Tensor, rank: int) -> Tensor:
        """Return the rows ``[n, ...]`` of a rank among ``x`` ``[N, ...]`` of all."""
        matched, unmatched = self._places()[rank]
        return x[matched] if self.all_matched else torch.cat([x[matched], x[unmatched]])

    def all_gather(self, x: Tensor) -> Tensor:
        """Return the rows ``[N, ...]`` of all ranks, ``x`` ``[n, ...]`` being this rank's."""
        longest = max(self.counts)  # a collective of one tensor needs shards of one size: pad
        if missing := longest - len(x):
            x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
        together = x.new_empty(self.group.size * longest, *x.shape[1:])
        all_gather(together, x.contiguous(), self.group.process_group)
        if self._even:
            return together
        blocks, whole = together.view(-1, *x.shape), x.new_empty(self.total, *x.shape[1:])
        for block, n, (matched, unmatched) in self._each(blocks):
            k = matched.stop - matched.start
            whole[matched], whole[unmatched] = block[:k], block[k:n]
        return whole

    def all_gather_with_gradient(self, x: Tensor) -> Tensor:
        """Return ``all_gather(x)``, for a loss that every rank computes in full.

        The gradient is that of the rows of this rank, times the world size: every rank has the
        gradient of the whole loss already, and the mean over the ranks divides by it.
        """
        return cast("Tensor", _Gather.apply(x, self))

    def reduce_scatter(self, x: Tensor) -> Tensor:
        """Return the rows ``[n, ...]`` of this rank of the sum of all ``x`` ``[N, ...]``."""
        longest = max(self.counts)
        together = x
        if not self._even:
            blocks = x.new_zeros(self.group.size, longest, *x.shape[1:])
            for block, n, (matched, unmatched) in self._each(blocks):
                k = matched.stop - matched.start
                block[:k], block[k:n] = x[matched], x[unmatched]
            together = blocks.flatten(0, 1)
        mine = x.new_empty(longest, *x.shape[1:])
        reduce_scatter(mine, together.contiguous(), self.group.process_group)
        return mine[: self.counts[self.group.rank]]

    @property
    def _even(self) -> bool:
        """Whether the global batch is the ranks' blocks, one after the other."""
        return self.all_matched and len(set(self.counts)) == 1

    def _each(self, blocks: Tensor) -> Iterator[tuple[Tensor, int, tuple[slice, slice]]]:
        """Go through the ranks: block, number of rows, and their places in the global batch."""
        return zip(blocks, self.counts, self._places(), strict=True)

    def _places(self) -> list[tuple[slice, slice]]:
        """Return where in the global batch each rank's matched rows are, and its unmatched ones."""
        others = [n - k for n, k in zip(self.counts, self.matched, strict=True)]
        first, then = _slices(self.matched, start=0), _slices(others, start=sum(self.matched))
        return list(zip(first, then, strict=True))


def pair_shards(a: Tensor, b: Tensor, group: BatchGroup | PairShards | None) -> PairShards | None:
    """Return how the global batch is sharded: a collective, unless that is known already."""
    known = group is None or isinstance(cast("Any", group), (BatchGroup, PairShards))
    if not known:
        msg = f"group is {a_type(group)}; give BatchGroup.current(), or None for one process"
        raise ValueError(msg)
    return group.pair_shards(a, b) if isinstance(group, BatchGroup) else group


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
