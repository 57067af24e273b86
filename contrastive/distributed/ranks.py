"""The processes of one training run, as ``torchrun`` starts them; usually there is one.

A run of W ranks is the run of one: each takes its shard of every batch, the loss is that of the
global batch (``contrastive.distributed.global_batch``), and every rank makes the same step. Only
rank 0 writes and logs; the other ranks wait at a barrier while it evaluates or encodes.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import distributed as dist

from contrastive.console import say
from contrastive.errors import ContrastiveError, TrainingError
from contrastive.nn.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")

STEP = timedelta(minutes=20)  # until a process that others wait for in a step is given up
WORK = timedelta(days=7)  # the same while the first encodes or evaluates, which may take hours


class Processes:
    """Those that train one model, this one being number ``rank`` of ``size``."""

    def __init__(
        self, rank: int = 0, size: int = 1, *, patient: ProcessGroup | None = None
    ) -> None:
        """Describe them; ``patient`` is for waiting."""
        self.rank = rank
        self.size = size
        self.patient = patient

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, rows: list[T]) -> list[T]:
        """Return the part of a batch that is this process's: as many as others, or one more."""
        start, stop = (len(rows) * r // self.size for r in (self.rank, self.rank + 1))
        return rows[start:stop]

    def say(self, line: str) -> None:
        """Print what this process alone knows, be it the first or not."""
        with redirect_stderr(sys.stderr if self.first else sys.__stderr__):
            say(line)

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier(self.patient)

    @contextmanager
    def in_turn(self) -> Generator[None]:
        """Let the first one do a piece of work, then all others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX, self.patient)
        return int(found)

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in one message for each type."""
        if self.size == 1:
            return
        alike: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
        for x in tensors:
            alike[x.dtype].append(x)
        for same in alike.values():
            flat = torch.cat([x.flatten() for x in same])
            dist.all_reduce(flat)
            flat /= self.size
            means = cast("Any", flat.split([x.numel() for x in same]))
            for x, mean in zip(same, means, strict=True):
                x.copy_(mean.view_as(x))

    def copy_from_first_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            for x in tensors:
                dist.broadcast(x.detach(), 0)

    def seed_dropout(self, seed: int, step: int) -> None:
        """Make dropout a function of (seed, step, rank), where there are several processes.

        So it differs between them, and a checkpoint need not hold the generator of each.
        """
        if self.size > 1:
            state = np.random.SeedSequence((seed, step, self.rank)).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0]) >> 1)


@contextmanager
def joined(device: str) -> Generator[tuple[Processes, torch.device]]:
    """Join the processes of a run within a block, where there are several.

    They are those that ``torchrun`` started, or that the caller has initialised. In the block, all
    but the first are silent; what each of them would say alike as it ends, the first one says.

    Args:
        device: as in ``training.device``; a GPU is this process's.

    Yields:
        The processes, and the device of this one.

    Raises:
        SpecError: there is no such device.
        TrainingError: another process has ended.
    """
    ours = not (dist.is_available() and dist.is_initialized())
    rank, size = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not ours:
        rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        yield Processes(), pick_device(device)
        return
    here = _own_device(device, size)
    if ours:
        backend = (
            "cpu:gloo,cuda:nccl" if here.type == "cuda" and dist.is_nccl_available() else "gloo"
        )
        dist.init_process_group(backend, timeout=STEP)
    patient = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=WORK))
    processes = Processes(rank, size, patient=patient)
    try:
        with _silent(unless=processes.first):
            yield processes, here
    except (ContrastiveError, RuntimeError) as error:
        if not _is_of_all(error):
            raise
        if not processes.first:
            raise SystemExit(getattr(error, "exit_code", 2)) from None
        if isinstance(error, ContrastiveError):
            raise
        msg = "another process of this run has ended; its message, or that of torchrun, says why"
        raise TrainingError(msg) from error
    finally:
        if ours:
            dist.destroy_process_group()


def _own_device(name: str, size: int) -> torch.device:
    """Return the device of this process: on a machine with GPUs, one for each."""
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        device = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(device)
        return device
    device = pick_device(name)
    if device.type == "cuda":
        msg = f"training.device: {name} is one device for {size} processes; write cuda"
        raise TrainingError(msg)
    return device


def _is_of_all(error: Exception) -> bool:
    """Whether all processes end by this: one of them has gone, or they came to the same end."""
    if isinstance(error, ContrastiveError):
        return isinstance(error, TrainingError) or hasattr(error, "exit_code")
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def _silent(*, unless: bool) -> Generator[None]:
    if unless:
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield
