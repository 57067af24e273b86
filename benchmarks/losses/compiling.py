"""Every kernel is compiled before anything is measured, as many at once as there are processors.

Each is called once on few rows, in a process of its own: Triton and Inductor keep on disk what they
have compiled, for the processes that come after.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.losses.memory import PRELOAD, Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from benchmarks.losses.problems import Loss

TICK = 0.2


@dataclass(frozen=True)
class Compilation:
    """What one process compiles."""

    implementation: str
    losses: tuple[Loss, ...]
    n: int
    d: int
    dtype: str
    ids: str
    device: str

    def __str__(self) -> str:
        kinds = "+".join(self.losses)
        return f"{self.implementation} {kinds} {self.n} x {self.d} {self.dtype} ids {self.ids}"

    def __call__(self) -> None:
        """Compute each loss and its gradients once."""
        for loss in self.losses:
            about = {"ids": self.ids, "device": self.device}
            Job(self.implementation, loss, self.d, self.dtype, **about)(self.n)()
        if self.device == "cuda":
            torch.cuda.synchronize()


def compile_all(
    waiting: list[Compilation],
    *,
    until: float,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Call each in a process of its own; tell after each what is known.

    Args:
        waiting: what there is, the most important first.
        until: ``time.time()`` at which the rest is left to those who need it.
        tell: is given the results, to be saved.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    most = max(1, (os.cpu_count() or 1) - 1)
    began, waiting = time.time(), list(waiting)
    found: dict[str, Any] = {"processes": most, "compiled": 0, "failed": {}, "late": []}
    running: dict[Any, tuple[Compilation, Any, Connection]] = {}
    while waiting or running:
        while waiting and len(running) < most:
            job = waiting.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_compile, args=(job, theirs), daemon=True)
            process.start()
            theirs.close()
            running[process.sentinel] = job, process, ours
        ended = wait(list(running), timeout=TICK)
        for sentinel, (job, process, answer) in list(running.items()):
            if process.is_alive():
                if time.time() < until:
                    continue
                process.kill()  # slow, or it hangs
                found["late"].append(str(job))
            process.join(timeout=5)  # a driver may hold it
            del running[sentinel]
            why = _answer(answer) or f"ended the process, status {process.exitcode}"
            if why == "compiled":
                found["compiled"] += 1
            elif str(job) not in found["late"]:
                found["failed"][str(job)] = why
        if time.time() > until:
            found["late"] += map(str, waiting)
            waiting.clear()
        if ended or not running:
            tell(found | {"seconds": round(time.time() - began, 1)})


def _answer(connection: Connection) -> str:
    try:
        return connection.recv() if connection.poll() else ""
    except EOFError:
        return ""


def _compile(job: Compilation, answer: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    try:
        job()
    except Exception as error:  # that it cannot be compiled is a result
        first = (str(error).strip().splitlines() or [""])[0]
        answer.send(f"{type(error).__name__}: {first[:200]}")
    else:
        answer.send("compiled")
