"""How much memory a call takes beyond what is there before it.

On a GPU the allocator knows. On a CPU nobody does: matrix libraries allocate by themselves, and
what was freed may stay with the process. There a fresh process computes a tiny problem, to load
code, makes the inputs, resets the kernel's high-water mark, and computes once.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.losses.implementations import Implementation, Mode, gradients, resolve
from benchmarks.losses.problems import SPEED_SCALE, Loss, Problem, Shape, independent

Tensors = Sequence[torch.Tensor]

TINY = 64
FUSED = "contrastive.losses.backends.triton.fused"  # left out without Triton
PRELOAD = ["torch", "benchmarks.losses.implementations", FUSED]
"""Imported once, before processes are forked for a call each; threads do not run yet."""


@dataclass(frozen=True)
class Memory:
    """Bytes. The peak holds the gradients that are returned, but not the inputs."""

    peak: int
    gradients: int


@dataclass(frozen=True)
class Job:
    """One call of an implementation, for a process of its own."""

    implementation: str
    loss: Loss
    d: int
    dtype: str
    mode: Mode = "both"
    raw: bool = False
    ids: str = "none"
    device: str = "cpu"

    def __call__(self, n: int) -> Callable[[], Tensors]:
        """Make a problem of so many rows, and return what solves it."""
        a, b = independent(Shape(n, n, self.d), torch.Generator(self.device).manual_seed(0))
        about = {"dtype": self.dtype, "raw": self.raw, "ids": self.ids}
        problem = Problem.of(self.loss, a, b, SPEED_SCALE, **about)
        return partial(once, resolve(self.implementation), problem, self.mode)


def once(implementation: Implementation, problem: Problem, mode: Mode) -> Tensors:
    """Compute, and return the gradients if the mode has them."""
    call = implementation.call(problem)
    if mode == "both":
        return [x for x in gradients(problem, call) if x is not None]
    with torch.no_grad():
        call()
    return []


def on_gpu(run: Callable[[], Tensors]) -> Memory:
    """Ask torch's allocator about a call that is warm."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run()
    torch.cuda.synchronize()
    return Memory(torch.cuda.max_memory_allocated() - before, sum(x.nbytes for x in results))


def on_cpu(prepare: Callable[[int], Callable[[], Tensors]], n: int) -> Memory:
    """Ask the kernel about a call in a fresh process.

    Args:
        prepare: makes a problem of so many rows, and returns the call; can be pickled.
        n: how many.

    Raises:
        OSError: this system keeps no high-water mark that can be reset.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, prepare, n, torch.get_num_threads()).result()


def _measure(prepare: Callable[[int], Callable[[], Tensors]], n: int, threads: int) -> Memory:
    torch.set_num_threads(threads)
    prepare(TINY)()
    run = prepare(n)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    results = run()
    return Memory(_high_water() - before, sum(x.nbytes for x in results))


def _high_water() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        msg = "/proc/self/status has no VmHWM"
        raise OSError(msg)
    return 1024 * int(found[1])
