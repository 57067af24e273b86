"""The ranks of one training run, as ``torchrun`` starts them; usually there is one.

A run of W ranks is the run of one: each takes its shard of every batch, the loss is that of the
global batch (``contrastive.distributed.global_batch``), and every rank makes the same step. All
encode and evaluate together (``contrastive.distributed.shared_work``); only rank 0 writes and logs.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import distributed as dist

from contrastive.console import quiet, say
from contrastive.distributed.collectives import (
    LateRank,
    all_gather_objects,
    all_reduce,
    barrier,
    broadcast,
    lost_rank_told,
)
from contrastive.distributed.heartbeat import Heartbeat
from contrastive.distributed.launcher import (
    COLLECTIVE_TIMEOUT,
    launched,
    local_rank,
    stopped_without_torchrun,
    told_waiting,
)
from contrastive.errors import ContrastiveError, TrainingError
from contrastive.nn.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

# a rank may load, encode or write for hours while the others wait
RANK0_TIMEOUT = timedelta(days=7)


class Ranks:
    """The ranks of a run, this one being ``rank`` of ``size``."""

    def __init__(
        self, rank: int = 0, size: int = 1, *, cpu_group: ProcessGroup | None = None
    ) -> None:
        """Describe them; ``cpu_group`` is a gloo group whose barrier may wait for rank 0."""
        self.rank = rank
        self.size = size
        self.cpu_group = cpu_group

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and logs."""
        return self.rank == 0

    def shard(self, rows: list[T]) -> list[T]:
        """Return this rank's shard of a batch; the sizes of two shards differ by at most one."""
        start, stop = (len(rows) * r // self.size for r in (self.rank, self.rank + 1))
        return rows[start:stop]

    def say(self, line: str) -> None:
        """Print what only this rank knows, be it the main one or not."""
        with quiet(on=False):
            say(line)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            barrier(self.cpu_group)

    @contextmanager
    def main_first(self) -> Generator[None]:
        """Let rank 0 do the block before the others, which then find what it has made.

        Raises:
            ContrastiveError: another rank met a mistake that rank 0 did not; it tells it.
        """
        if self.is_main:
            yield
            self.barrier()
            return
        self.barrier()
        try:
            yield
        except ContrastiveError as error:
            msg = f"rank {self.rank}: {error}"
            raise ContrastiveError(msg) from error

    def check_same(self, what: str, values: dict[str, Any], remedy: str) -> None:
        """Insist that values are the same on all ranks.

        Args:
            what: they are, such as ``"the ranks have other specs"``.
            values: by name; the first that differs is told.
            remedy: what to do about it.

        Raises:
            TrainingError: they differ; all ranks raise it.
        """
        if self.size == 1:
            return
        mine = {name: repr(value) for name, value in values.items()}
        found: list[dict[str, str]] = all_gather_objects(mine, self.size, self.cpu_group)
        for name in dict.fromkeys(name for each in found for name in each):
            told = [each.get(name, "none") for each in found]
            if len(set(told)) > 1:
                other = next(rank for rank, value in enumerate(told) if value != told[0])
                msg = (
                    f"{what}: rank 0 has {name}: {told[0]}, rank {other} has {told[other]}; "
                    f"{remedy}"
                )
                raise TrainingError(msg)

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        self.barrier()
        found = torch.tensor(number)  # on the CPU, so that a GPU is not waited for
        all_reduce(found, self.cpu_group, maximum=True)
        return int(found)

    def all_reduce_mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the ranks, in one collective for each dtype."""
        if self.size == 1:
            return
        by_dtype: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
        for x in tensors:
            by_dtype[x.dtype].append(x)
        for same in by_dtype.values():
            flat = torch.cat([x.flatten() for x in same])
            all_reduce(flat)
            flat /= self.size
            means = cast("Any", flat.split([x.numel() for x in same]))
            for x, mean in zip(same, means, strict=True):
                x.copy_(mean.view_as(x))

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of rank 0."""
        if self.size > 1:
            for x in tensors:
                broadcast(x.detach())

    def seed_dropout(self, seed: int, step: int) -> None:
        """With several ranks, make dropout a function of (seed, step, rank).

        So it differs between ranks, and a checkpoint need not hold the generator of each.
        """
        if self.size > 1:
            state = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]) >> 1)


@contextmanager
def launched_ranks(device: str) -> Generator[tuple[Ranks, torch.device]]:
    """Join the ranks of a run within a block, where there are several.

    They are those that ``torchrun`` started, or that the caller has initialised. In the block only
    rank 0 prints, and a mistake that all ranks meet is told once; warnings come from each.

    Args:
        device: as in ``training.device``; a GPU is this rank's.

    Yields:
        The ranks, and the device of this one.

    Raises:
        SpecError: there is no such device.
        TrainingError: the environment describes no ranks, or another one has ended.
    """
    ours = not (dist.is_available() and dist.is_initialized())
    rank, size = launched() if ours else (dist.get_rank(), dist.get_world_size())
    if size == 1:
        yield Ranks(), pick_device(device)
        return
    here = _own_device(device, size)
    with stopped_without_torchrun(rank) if ours else nullcontext():
        yield from _joined(rank, size, here, ours=ours)


def _joined(
    rank: int, size: int, here: torch.device, *, ours: bool
) -> Generator[tuple[Ranks, torch.device]]:
    if ours:
        backend = (
            "cpu:gloo,cuda:nccl" if here.type == "cuda" and dist.is_nccl_available() else "gloo"
        )
        with told_waiting(rank, size):
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        with lost_rank_told():
            cpu_group = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=RANK0_TIMEOUT))
            heartbeat = Heartbeat(rank, size)
        ranks = Ranks(rank, size, cpu_group=cpu_group)
        with quiet(on=not ranks.is_main), heartbeat.written():
            yield ranks, here
    except ContrastiveError as error:
        # what one rank alone meets, such as a bad sample, ends the others by a lost rank
        on_all_ranks = isinstance(error, TrainingError) or hasattr(error, "exit_code")
        on_all_ranks &= not isinstance(error, LateRank)  # which one of them tells
        if rank == 0 or not on_all_ranks:
            raise
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    finally:
        if ours:
            dist.destroy_process_group()


def _own_device(name: str, size: int) -> torch.device:
    """Return the device of this rank: on a machine with GPUs, one for each."""
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        device = pick_device(f"cuda:{local_rank()}")
        torch.cuda.set_device(device)
        return device
    device = pick_device("cpu" if name == "auto" else name)  # gloo knows no other kind of GPU
    if device.type in ("cuda", "mps"):
        other = "cuda" if device.type == "cuda" else "cpu"
        msg = f"training.device: {name} is one device for {size} ranks; write {other}"
        raise TrainingError(msg)
    return device
