"""A run: one process works, another sees to it that the work goes on and ends.

A call that ends its process (a crash, a lost GPU) or does not end itself is left out; a new process
takes up the work where the last one stood. An implementation that does so often is left out of the
rest. At the deadline the process is ended, and what it has not reached is told.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.losses.about import about_device, versions
from benchmarks.losses.implementations import Implementation, resolve
from benchmarks.losses.plan import Plan
from benchmarks.losses.results import Note, Results
from contrastive.console import bar, say

if TYPE_CHECKING:
    from pathlib import Path

START = 120.0  # seconds for a process to import torch and to reach the GPU
STARTS = 2  # attempts
ENOUGH = 3  # calls that an implementation may lose
TICK = 0.2  # seconds between two looks at a process

FIND = "find"  # the step before all others
OUR_ERROR = 1  # exit status of a Python error that is nobody's but this package's
LATE = "no time left"


def supervise(path: Path) -> None:
    """Work through the steps of a file in processes of their own.

    Raises:
        SystemExit: the work cannot even begin.
    """
    results = Results.load(path)
    results.data["steps"] = [step.key for step in Plan(results, []).steps()]
    results.save()
    starts, why = 0, LATE
    while starts < STARTS and time.time() < results.ends:
        code, how, last = _watch(path, results.ends)
        results = Results.load(path)
        if code == 0:
            break
        step, name = last.step, last.implementation
        if code == OUR_ERROR and step == FIND:
            raise SystemExit(code)
        starts = starts + 1 if step == FIND and not name else 0
        why = f"no process could start: {how}" if starts == STARTS else LATE
        if time.time() >= results.ends:
            how = "was under way when the time was over"
        _lose(results, step, "" if code == OUR_ERROR else name, how)
    named = {*results.data["done"], *(x["step"] for x in results.data["skipped"])}
    results.data["skipped"] += [
        {"step": step, "reason": why} for step in results.data["steps"] if step not in named
    ]
    results.save()


def _lose(results: Results, step: str, name: str, how: str) -> None:
    """Note what a process did not survive; the step goes on without it, or not at all."""
    say(f"{step}: {name or 'something'} {how}")
    data = results.data
    if name:
        data["lost"].append({"step": step, "implementation": name, "reason": how})
        count = sum(x["implementation"] == name for x in data["lost"])
        if step == FIND or count >= ENOUGH:
            data["ended"][name] = f"{how} in: {step}"
    else:
        data["skipped"].append({"step": step, "reason": how})
        data["done"].append(step)
    results.save()


def _watch(path: Path, ends: float) -> tuple[int, str, Note]:
    """Run a process until it ends, hangs or is late.

    Returns:
        Its status, the same in words, and its last note.
    """
    notes, its_notes = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.losses", "work", str(path), str(its_notes)],
        stdin=subprocess.PIPE,  # it ends itself when this is closed
        pass_fds=[its_notes],
        start_new_session=True,
    )
    os.close(its_notes)
    now, since, rest = Note(FIND, "", START), time.time(), b""
    try:
        while time.time() < min(since + now.limit, ends):
            text = b""
            if select.select([notes], [], [], TICK)[0]:
                text = os.read(notes, 65536)
                *lines, rest = (rest + text).split(b"\n")
                if lines:
                    now, since = Note(**json.loads(lines[-1])), time.time()
            if not text and (code := worker.poll()) is not None:
                return code, f"ended the process, status {code}", now
        return _end(worker), f"did not end within {now.limit:g} s", now
    except BaseException:
        _end(worker)
        raise
    finally:
        os.close(notes)
        if worker.stdin:
            worker.stdin.close()


def _end(worker: subprocess.Popen[bytes]) -> int:
    """End a process and all that it started; one that a driver holds is left behind."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    try:
        return worker.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def work(path: Path, notes: int) -> None:
    """Do what is left of a file's steps, as long as whoever started this process is there.

    Args:
        path: the file.
        notes: a pipe to whoever started this process.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    results = replace(Results.load(path), notes=notes)
    torch.set_num_threads(results.options.threads)
    results.data["about"] |= about_device(results.options.device)
    steps = list(Plan(results, _find(results)).steps())
    done = results.data["done"]
    with bar("losses", len(steps), done=len(done)) as advance:
        # what a section had no time for comes last
        for step in [*steps, *(replace(step, until=results.until(1)) for step in steps)]:
            if step.key not in done and time.time() < step.until:
                results.note(step.key, limit=step.limit)
                if why := step.run():
                    results.data["skipped"].append({"step": step.key, "reason": why})
                done.append(step.key)
                results.save()
                advance(1, step.key)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes, but the end
    os.killpg(0, signal.SIGKILL)


def _find(results: Results) -> list[Implementation]:
    """Return what can run here, and note what cannot, and why."""
    found = []
    for name in results.options.names:
        results.note(FIND, name, limit=START)
        if name in results.data["ended"]:
            continue
        try:
            implementation = resolve(name)
            why = implementation.missing(results.options.device)
        except Exception as error:  # somebody's module may do anything
            results.data["implementations"][name] = {"missing": f"{type(error).__name__}: {error}"}
            continue
        results.data["implementations"][implementation.name] = {
            "units": implementation.units,
            "ours": implementation.ours,
            "missing": why,
            "version": versions([implementation.package]).get(implementation.package, ""),
        }
        if not why:
            found.append(implementation)
    results.note(FIND, limit=START)
    results.save()
    return found
