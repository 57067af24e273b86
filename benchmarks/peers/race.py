"""Rounds in which every arm has its turn, each in a process of its own.

Only times of one round are compared, and the order moves on by one, so that what disturbs the
machine disturbs all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.arms import RESULT, work

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Functions:
    """Functions that pytest-benchmark times."""

    file: str
    timer: str
    bar: float
    """What ours may take of a peer's time."""
    only: tuple[str, ...] = ("",)
    """How the groups and peers begin for which the bar counts."""

    @property
    def unit(self) -> str:
        """Name what the timer counts."""
        return "s of processor time" if self.timer == "time.process_time" else "s"

    def bar_of(self, group: str, peer: str) -> float | None:
        """Return the bar of a group against a peer, if it has one."""
        return self.bar if f"{group}, {peer}".startswith(self.only) else None


FUNCTIONS = {
    "search": Functions("benchmarks/test_search.py", "time.perf_counter", 1.1),
    "recall": Functions(
        "benchmarks/test_recall.py",
        "time.process_time",
        0.2,
        tuple(f"recall, 5,000 x 25,000, {peer}" for peer in ("clip_benchmark", "ranx")),
    ),
    "metric_losses": Functions("benchmarks/test_metric_losses.py", "time.perf_counter", 1.1),
}
SHOWN = 2000  # last characters of what a program that fails printed
LIMIT = 3600  # seconds for one program


def race(
    name: str, folder: Path, *, rounds: int, deadline: float, note: Callable[[str], None]
) -> dict[str, Any]:
    """Return what each arm measured in each round, and why others were left out.

    Args:
        name: of a work whose arms are programs.
        folder: of the inputs.
        rounds: how often each arm has its turn.
        deadline: by ``time.monotonic``, after which no round begins.
        note: is told what runs.
    """
    chosen = work(name)
    missing: dict[str, str] = {}
    measured: list[dict[str, float]] = []
    note(f"{name}: inputs")
    failure = run_arm(name, "inputs", folder)[1]
    if failure:
        return {"rounds": [], "left_out": dict.fromkeys(chosen.arms, failure)}
    for number in range(rounds):
        if measured and time.monotonic() > deadline:
            missing["further rounds"] = "the deadline came"
            break
        names = list(chosen.arms)
        turn = number % len(names)
        found: dict[str, float] = {}
        for arm in names[turn:] + names[:turn]:
            if arm in missing:
                continue
            note(f"{name}: {arm}, round {number + 1} of {rounds}")
            value, failure = run_arm(name, arm, folder)
            if value is None:
                missing[arm] = failure
            else:
                found[arm] = value
        measured.append(found)
    return {"rounds": measured, "left_out": missing}


def run_arm(name: str, arm: str, folder: Path) -> tuple[float | None, str]:
    """Return what an arm measured, or None and why not."""
    command = [sys.executable, "-m", "benchmarks.peers.arms", name, arm, str(folder)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "CONTRASTIVE_CACHE": str(folder / "cache")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"did not end in {LIMIT} s"
    if arm == "inputs" and done.returncode == 0:
        return None, ""
    results = [x.removeprefix(RESULT) for x in done.stdout.splitlines() if x.startswith(RESULT)]
    if done.returncode or not results:
        return None, f"failed: {(done.stdout + done.stderr)[-SHOWN:].strip()}"
    result = json.loads(results[-1])
    if "missing" in result:
        return None, f"{result['missing']} is not installed"
    return result["value"], ""


def functions(
    name: str, *, rounds: int, deadline: float, note: Callable[[str], None]
) -> dict[str, Any]:
    """Let pytest-benchmark time the functions of a work, ``rounds`` times.

    Returns:
        Rounds of median seconds by group and arm, and why others were left out.
    """
    measured: list[dict[str, dict[str, float]]] = []
    left_out: dict[str, str] = {}
    for number in range(rounds):
        if measured and time.monotonic() > deadline:
            left_out["further rounds"] = "the deadline came"
            break
        note(f"{name}: round {number + 1} of {rounds}")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "times.json")
            options = (
                "--benchmark-only",
                "-q",
                "-rs",
                "-p",
                "no:randomly",
                "-p",
                "no:cacheprovider",
            )
            command = [sys.executable, "-m", "pytest", FUNCTIONS[name].file, *options]
            done = subprocess.run(
                [
                    *command,
                    f"--benchmark-json={file}",
                    f"--benchmark-timer={FUNCTIONS[name].timer}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            data = json.loads(file.read_text() or "{}") if file.exists() else {}
        groups: dict[str, dict[str, float]] = {}
        for case in data.get("benchmarks", []):
            groups.setdefault(case["group"], {})[case["params"]["arm"]] = case["stats"]["median"]
        for line in done.stdout.splitlines():
            if line.startswith("SKIPPED"):
                left_out[line.partition(": ")[2]] = "skipped"
        if done.returncode or not groups:
            left_out[name] = f"failed: {(done.stdout + done.stderr)[-SHOWN:].strip()}"
            break
        measured.append(groups)
    return {"groups": measured, "left_out": left_out}
