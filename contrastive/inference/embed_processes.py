"""Embed a dataset in several processes: one plans, the others each have the model.

A shard's samples go to whichever process is idle, so no other reads the dataset. A process sends a
report when it has loaded the model and after each shard; without an answer it has ended.
"""

from __future__ import annotations

import errno
import signal
import threading
import traceback
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, cast

from torch import set_num_threads

from contrastive.config.foreign_errors import foreign_error
from contrastive.config.registry import reason
from contrastive.console import bar, note_omission, noted_omissions, say, told_to
from contrastive.data.content_index import content_index
from contrastive.data.worker_processes import (
    LostWorker,
    exit_with_parent,
    how_it_ended,
    usable_cores,
)
from contrastive.errors import ContrastiveError, DataError
from contrastive.inference.embed import write_shard
from contrastive.inference.embedding_folder import EmbeddingFolder
from contrastive.nn.memory import OutOfMemory, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from contrastive.features.cache import FeatureCache
    from contrastive.inference.embed import Job, Plan
    from contrastive.model.model import ContrastiveModel

    Load = Callable[[], tuple[ContrastiveModel, FeatureCache | None]]

KEPT = "what is written is kept, run the same again"
FEWER = "use fewer processes (--processes)"
NONE = "use one process"
FULL = {errno.ENOSPC, errno.EDQUOT}
"""Numbers of errors of a disk without space."""


@dataclass(frozen=True)
class Report:
    """What a process has said since its last one, and why it ends, if it does."""

    lines: list[str]
    omissions: list[str]
    shards: int = 0
    problem: Exception | None = None

    def print(self) -> None:
        """Say in this process what was said in that one."""
        for line in self.lines:
            say(line)
        for line in self.omissions:
            note_omission(line)


class ShardWriter:
    """Writes shards in a process of its own."""

    def __init__(self, folder: Path, load: Load) -> None:
        """Write into ``folder``; ``load`` is called once, for the model and its cache."""
        self._folder, self._load = folder, load
        self._writes: Callable[[Job], None] | None = None

    def report(self, job: Job | None) -> Report:
        """Write a shard, or load the model; whatever is met is in the report."""
        lines: list[str] = []
        problem = None
        with told_to(lines.append), noted_omissions() as omissions:
            try:
                if job is None or self._writes is None:
                    model, cache = self._load()
                    written = EmbeddingFolder(self._folder)
                    self._writes = partial(write_shard, written, model, cache=cache)
                if job is not None:
                    self._writes(job)
            except BaseException as error:  # a plugin may call sys.exit
                problem = _problem(error)
        shards = int(job is not None and problem is None)
        return Report(lines, [*omissions], shards, problem)


def embed_in_processes(plan: Plan, processes: int, load: Load) -> None:
    """Write the shards that are missing, in several processes that share the cores.

    Args:
        plan: what there is to do.
        processes: how many.
        load: called in each for its model and cache; it has to be picklable.

    Raises:
        LostWorker: a process was killed or ended itself; the others have done the rest.
        Exception: one has met a problem, which is raised as a single one would; the others have
            done the rest.
        DataError: shards that were written are gone.
    """
    left = deque(plan.folder.missing())
    if not left:
        return
    content_index().write()  # or each would read every file again for its hash
    processes = min(processes, len(left))
    threads = max(1, int(usable_cores() / processes))
    running: dict[Any, BaseProcess] = {}
    problems: list[Exception] = []
    try:
        for _ in range(processes):
            here, process = _start(plan.folder.path, load, threads)
            running[here] = process
        with bar("embedding shards", len(left)) as advance:
            while running:
                for here in cast("list[Any]", wait([*running])):
                    report = _received(here, running[here])
                    report.print()
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
    check_done(plan, problems)


def check_done(plan: Plan, problems: list[Exception]) -> None:
    """Raise the first problem; or that of shards which were written and are gone."""
    if problems:
        raise problems[0]
    if plan.folder.missing():
        msg = f"{plan.folder.path}: some shards are missing; {KEPT}"
        raise DataError(msg)


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


def _received(here: Any, process: BaseProcess) -> Report:
    try:
        return here.recv()
    except (EOFError, OSError):
        process.join()
    how = how_it_ended(process, process.exitcode or 0, fewer=FEWER, none=NONE)
    return Report([], [], problem=LostWorker(f"{how}; {KEPT}"))


def _serve(folder: Path, parent: Any, load: Load, threads: int) -> None:
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_num_threads(threads)
    _work(folder, parent, load)


def _work(folder: Path, parent: Any, load: Load) -> None:
    """Write the shards that the parent sends; tell it a problem, and end."""
    writer, job = ShardWriter(folder, load), None
    with suppress(OSError, EOFError):  # the parent is gone
        while True:
            report = writer.report(job)
            parent.send(report)
            if report.problem or not (job := parent.recv()):
                break
    parent.close()


def _problem(error: BaseException) -> Exception:
    """Return what the parent raises: it can be pickled, and says what a single process would."""
    if isinstance(error, ContrastiveError):
        return error
    if memory := out_of_memory(error):
        return OutOfMemory(f"{memory}; {FEWER}, or another device")
    if found := foreign_error(error):
        found.add_note(traceback.format_exc())  # which is lost on the way
        return found
    if isinstance(error, OSError) and error.strerror:  # the disk is full, or a file may not be read
        said = f"{error.strerror}; {KEPT}" if error.errno in FULL else error.strerror
        return OSError(error.errno, said, error.filename)
    bug = RuntimeError(f"one of the processes raised {reason(error)}")
    bug.add_note(traceback.format_exc())
    return bug
