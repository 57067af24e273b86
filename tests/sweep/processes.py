"""Each candidate in a forked process of its own, so that no failure stops the others."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sweep.judge import Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.sweep.judge import Candidate

MEMORY = 16 << 30  # bytes of addresses


def verdicts(
    makers: Mapping[str, Callable[[Path], Candidate]], *, processes: int, seconds: int
) -> Iterator[tuple[str, Verdict, float]]:
    """Yield the verdict on each candidate and its CPU seconds, in the order in which they end."""
    root = Path(tempfile.mkdtemp(prefix="sweep-"))
    running: dict[int, str] = {}
    ahead = [*makers.items()]
    try:
        while ahead or running:
            while ahead and len(running) < processes:
                name, make = ahead.pop(0)
                if (pid := os.fork()) == 0:
                    _child(make, root / str(os.getpid()), seconds)
                running[pid] = name
            pid, status, used = os.wait4(-1, 0)
            if pid in running:
                cost = used.ru_utime + used.ru_stime
                yield running.pop(pid), _read(root / str(pid), status), cost
                shutil.rmtree(root / str(pid), ignore_errors=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def share_imports(makers: Iterable[Callable[[Path], Candidate]]) -> None:
    """Judge a few candidates in this process: those forked later share what they imported.

    Garbage collection, which would make a copy of it all in each process, leaves it alone.
    """
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for make in makers:
            with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
                verdict(make, Path(folder))
    gc.collect()
    gc.freeze()


def _child(make: Callable[[Path], Candidate], folder: Path, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    folder.mkdir()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        found = verdict(make, folder)
        (folder / "verdict.json").write_text(json.dumps(asdict(found)))
    finally:
        sys.stdout.flush()
        os._exit(0)


def _read(folder: Path, status: int) -> Verdict:
    file = folder / "verdict.json"
    if file.exists():
        return Verdict(**json.loads(file.read_text()))
    ended = -os.waitstatus_to_exitcode(status)
    if ended == signal.SIGXCPU:
        return Verdict("not made", "takes longer than --seconds")
    return Verdict("not made", f"ended by signal {ended}: too large")
