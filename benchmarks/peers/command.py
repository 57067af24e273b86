"""What the command line can do."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.losses.about import about, about_device
from benchmarks.peers.arms import PROGRAMS, Work, work
from benchmarks.peers.race import FUNCTIONS, functions, race
from benchmarks.peers.report import write_report
from benchmarks.peers.sizes import VARIABLE
from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = [
    *("torch", "contrastive-kit", "transformers", "sentence-transformers", "open-clip-torch"),
    *("faiss-cpu", "ranx", "clip-benchmark", "pytorch-metric-learning"),
]
FULL = {"BENCHMARK_ITEMS": "31000,1000000", "BENCHMARK_IMAGES": "1000,5000,31000"}
TINY = {"BENCHMARK_ITEMS": "100", "BENCHMARK_IMAGES": "20"}


def main(arguments: list[str]) -> None:
    """Measure, and write ``results.json`` after each work, then a table and a plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--works", default=",".join((*PROGRAMS, *FUNCTIONS)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch, in each process")
    parser.add_argument(
        "--deadline", type=float, default=5400, help="seconds; no round begins later"
    )
    parser.add_argument("--tiny", action="store_true", help="sizes that try all out; no result")
    parser.add_argument("--output", type=Path, default=Path("runs/peers"))
    asked = parser.parse_args(arguments)
    chosen = asked.works.split(",")
    unknown = set(chosen) - {*PROGRAMS, *FUNCTIONS}
    if unknown:
        parser.error(
            f"--works: {', '.join(sorted(unknown))}; there are {', '.join((*PROGRAMS, *FUNCTIONS))}"
        )
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    os.environ[VARIABLE] = "tiny" if asked.tiny else asked.device
    os.environ |= TINY if asked.tiny else FULL
    asked.output.mkdir(parents=True, exist_ok=True)
    path = asked.output / "results.json"
    data: dict[str, Any] = {
        "about": about(arguments, module="benchmarks.peers", packages=PACKAGES)
        | about_device(asked.device),
        "works": {},
    }
    ends = time.monotonic() + asked.deadline
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            for key, measured in _measured(name, Path(scratch), asked.rounds, ends):
                data["works"][key] = measured
            path.write_text(json.dumps(data, indent=1))
    write_report(path)


def _measured(
    name: str, scratch: Path, rounds: int, ends: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a work under its name, or each group of functions under its own."""
    if name in PROGRAMS:
        chosen = work(name)
        folder = scratch / name
        folder.mkdir()
        found = race(name, folder, rounds=rounds, deadline=ends, note=say)
        yield name, _described(chosen) | found
        return
    timed = FUNCTIONS[name]
    found = functions(name, rounds=rounds, deadline=ends, note=say)
    for group in dict.fromkeys(group for one in found["groups"] for group in one):
        in_rounds = [one[group] for one in found["groups"] if group in one]
        arms = dict.fromkeys(arm for one in in_rounds for arm in one)
        yield (
            group,
            {
                "title": group,
                "unit": timed.unit,
                "more_is_better": False,
                "pairs": [("ours", arm, timed.bar_of(group, arm)) for arm in arms if arm != "ours"],
                "rounds": in_rounds,
                "left_out": found["left_out"],
            },
        )
    if not found["groups"]:
        yield (
            name,
            {"title": name, "unit": timed.unit, "more_is_better": False, "pairs": [], **found}
            | {"rounds": []},
        )


def _described(chosen: Work) -> dict[str, Any]:
    barred = {(bar.ours, bar.peer): bar.ratio for bar in chosen.bars}
    others = (
        [("ours", arm) for arm in chosen.arms if arm != "ours"] if "ours" in chosen.arms else []
    )
    pairs = [*barred, *(pair for pair in others if pair not in barred)]
    return {
        "title": chosen.title,
        "unit": chosen.unit,
        "more_is_better": chosen.more_is_better,
        "pairs": [(*pair, barred.get(pair)) for pair in pairs],
    }
