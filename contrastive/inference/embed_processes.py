"""Embed a dataset in several processes: one plans, the others each have the model.

A shard's samples go to whichever process is idle, so no other reads the dataset. A process sends a
report when it has loaded the model and after each shard; without an answer it has ended.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, cast

from torch import set_num_threads

from contrastive.console import bar, note_omission, noted_omissions, say, told_to
from contrastive.data.content_index import content_index
from contrastive.data.worker_processes import exit_with_parent, worker_count
from contrastive.errors import ContrastiveError, TrainingError
from contrastive.inference.embed import write_shard
from contrastive.inference.embedding_folder import EmbeddingFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from contrastive.features.cache import FeatureCache
    from contrastive.inference.embed import Plan
    from contrastive.model.model import ContrastiveModel

    Load = Callable[[], tuple[ContrastiveModel, FeatureCache | None]]

KEPT = "what is written is kept, run the same again"


@dataclass(frozen=True)
class _Report:
    """What a process has said since its last one, and why it ends, if it does."""

    lines: list[str]
    omissions: list[str]
    shards: int = 0
    problem: str = ""


def embed_in_processes(plan: Plan, processes: int, load: Load) -> None:
    """Write the shards that are missing, in several processes that share the cores.

    Args:
        plan: what there is to do.
        processes: how many.
        load: called in each for its model and cache; it has to be picklable.

    Raises:
        TrainingError: a process did not come to its end; the others have done the rest.
    """
    left = deque(plan.folder.missing())
    if not left:
        return
    content_index().write()  # or each would read every file again for its hash
    processes = min(processes, len(left))
    threads = max(1, worker_count("auto") // processes)
    running: dict[Any, BaseProcess] = {}
    problems: list[str] = []
    try:
        for _ in range(processes):
            here, process = _start(plan.folder.path, load, threads)
            running[here] = process
        with bar("embedding shards", len(left)) as advance:
            while running:
                for here in cast("list[Any]", wait([*running])):
                    report = _received(here, running[here])
                    for line in report.lines:
                        say(line)
                    for line in report.omissions:
                        note_omission(line)
                    if report.shards:
                        advance(report.shards, "")
                    if report.problem:
                        problems.append(report.problem)
                    job = None if report.problem or not left else plan.job(*left.popleft())
                    with suppress(OSError):  # it has ended: the next report says how
                        here.send(job)
                    if job is None:
                        running.pop(here).join()
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    if problems or plan.folder.missing():
        msg = f"{problems[0] if problems else 'some shards are missing'}; {KEPT}"
        raise TrainingError(msg)


def _start(folder: Path, load: Load, threads: int) -> tuple[Any, BaseProcess]:
    """Start a process, and return the end of a pipe to it."""
    spawn = get_context("spawn")  # a fork would copy the threads of torch and a GPU's state
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(folder, there, load, threads), daemon=True)
    with _no_interrupts():
        process.start()
    there.close()  # so that the pipe ends with the process
    return here, process


@contextmanager
def _no_interrupts() -> Generator[None]:
    """Ignore Ctrl-C, which a process that is started within the block then does from the start.

    The terminal interrupts all at once; it is the first process that ends the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _received(here: Any, process: BaseProcess) -> _Report:
    try:
        return here.recv()
    except (EOFError, OSError):
        process.join()
    code = process.exitcode or 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    out_of_memory = " (out of memory?)" if how.endswith("SIGKILL") else ""
    return _Report([], [], problem=f"one of the processes {how}{out_of_memory}")


def _serve(folder: Path, parent: Any, load: Load, threads: int) -> None:
    """Write the shards that the parent sends."""
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_num_threads(threads)
    lines: list[str] = []

    def report(shards: int = 0, problem: str = "") -> None:
        parent.send(_Report([*lines], [*omissions], shards, problem))
        lines.clear()
        omissions.clear()

    with told_to(lines.append), noted_omissions() as omissions:
        try:
            model, cache = load()
            written = EmbeddingFolder(folder)
            report()
            while job := parent.recv():
                write_shard(written, model, job, cache=cache)
                report(shards=1)
        except ContrastiveError as error:
            report(problem=str(error))
        except OSError as error:  # the disk is full
            if not error.strerror:
                raise
            report(problem=f"{error.filename}: {error.strerror}")
