"""A run: one process works, another sees to it that the work goes on and ends.

An implementation that ends its process (a crash, a lost GPU) is left out of the rest, which a new
process takes up where the last one stood. A process that does not stop in time is ended.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import torch

from benchmarks.losses.about import versions
from benchmarks.losses.implementations import Implementation, resolve
from benchmarks.losses.plan import Plan
from benchmarks.losses.results import Results
from contrastive.console import bar, say

if TYPE_CHECKING:
    from pathlib import Path

GRACE = 45.0  # seconds beyond the deadline for the call that is under way then

FIND = "find"  # the step before all others
OUR_ERROR = 1  # exit status of a Python error that is nobody's but this package's


def supervise(path: Path) -> None:
    """Work through the steps of a file in processes of their own.

    Raises:
        SystemExit: the work cannot even begin.
    """
    ends = time.time() + Results.load(path).options.deadline
    while True:
        left = ends - time.time()
        command = [sys.executable, "-m", "benchmarks.losses", "work", str(path), f"{left:.1f}"]
        worker = subprocess.Popen(command)
        try:
            code = worker.wait(timeout=max(left, 0) + GRACE)
            how = f"ended the process, status {code}"
        except subprocess.TimeoutExpired:
            worker.kill()
            code, how = worker.wait(), "did not come to an end"
        except BaseException:
            worker.kill()
            raise
        results = Results.load(path)
        now = results.noted()
        results.forget_note()
        if code == 0:
            return
        if not now or (code == OUR_ERROR and now["step"] == FIND):
            raise SystemExit(code)
        name, step = now["implementation"], now["step"]
        name = "" if code == OUR_ERROR else name
        say(f"{step}: {name or 'something'} {how}")
        if name:
            results.data["ended"][name] = f"{how} in: {step}"
        else:
            results.data["skipped"].append({"step": step, "reason": how})
            results.data["done"].append(step)
        results.save()


def work(path: Path, seconds: float) -> None:
    """Do what is left of a file's steps."""
    deadline = time.monotonic() + seconds
    results = Results.load(path)
    torch.set_num_threads(results.options.threads)
    found = _find(results)
    steps = list(Plan(results, deadline, found).steps())
    todo = [step for step in steps if step.key not in results.data["done"]]
    with bar("losses", len(steps), done=len(steps) - len(todo)) as advance:
        for step in todo:
            if time.monotonic() < step.until:
                results.note(step.key)
                step.run()
                results.data["done"].append(step.key)
            else:
                results.data["skipped"].append({"step": step.key, "reason": "no time left"})
            results.save()
            advance(1, step.key)


def _find(results: Results) -> list[Implementation]:
    """Return what can run here, and note what cannot, and why."""
    found = []
    for name in results.options.names:
        results.note(FIND, name)
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
    results.save()
    return found
