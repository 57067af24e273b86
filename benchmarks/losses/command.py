"""What the command line can do."""

from __future__ import annotations

import argparse
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.losses.about import about
from benchmarks.losses.implementations import NAIVE, ours
from benchmarks.losses.peers import PEERS
from benchmarks.losses.plan import SHARES
from benchmarks.losses.problems import DTYPES, IDS, LOSSES
from benchmarks.losses.report import write_report
from benchmarks.losses.results import Options, Results
from benchmarks.losses.run import supervise, work
from benchmarks.losses.thresholds import threshold_lines
from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODES = ["both", "forward"]
FEATURES = ["unit", "raw"]


@dataclass(frozen=True)
class Preset:
    """What is measured if nothing else is asked for."""

    sizes: list[int]
    widths: list[int]
    dtypes: list[str]
    ids: list[str]
    sections: list[str]
    modes: list[str]
    features: list[str]
    ours: list[str]
    peers: list[str]


EVERYTHING = {
    "cpu": Preset(
        sizes=[1024, 2048, 4096],
        widths=[512],
        dtypes=["fp32"],
        ids=["none"],
        sections=["ceilings", "correctness", "speed"],
        modes=MODES,
        features=FEATURES,
        ours=[x.name for x in ours()],
        peers=[x.name for x in PEERS],
    ),
    "cuda": Preset(
        sizes=[4096, 8192, 16384, 32768, 65536, 131072],
        widths=[512, 768, 1024],
        dtypes=["bf16"],
        ids=["none"],
        sections=["ceilings", "correctness", "host", "speed"],
        modes=MODES,
        features=FEATURES,
        ours=[x.name for x in ours()],
        peers=[x.name for x in PEERS],
    ),
}
_CONTACT = ["compile", "ids", "host", "speed", "kernels", "tiles"]
FIRST_CONTACT = {
    "cpu": Preset(
        sizes=[64, 128, 256],
        widths=[32, 48],
        dtypes=["fp32", "bf16"],
        ids=["none", "multi"],
        sections=_CONTACT,
        modes=["both"],
        features=["unit"],
        ours=["eager", "chunked", "fused", "fused-low-memory", "default"],
        peers=[],
    ),
    "cuda": Preset(
        sizes=[1024, 2048, 4096, 8192, 16384, 32768],
        widths=[512, 768, 1024],
        dtypes=["amp", "bf16", "fp32"],
        ids=["none", "multi"],
        sections=_CONTACT,
        modes=["both"],
        features=["unit"],
        ours=["eager", "chunked", "fused", "fused-low-memory", "default"],
        peers=["naive-compiled"],
    ),
}
"""The first minutes on a GPU. ``default`` is what a spec gets that names a loss alone."""
DEADLINE = {"first-contact": 300.0, "": 420.0}
LIMIT = {"first-contact": 45.0, "": 300.0}


def main(arguments: list[str], *, started: float) -> None:
    """Run, or make a report of what a run wrote; ``work`` is for a run's own processes."""
    match arguments:
        case ["report", path]:
            write_report(Path(path))
        case ["work", path, notes]:
            work(Path(path), int(notes))
        case _:
            run(arguments, started=started)


def run(arguments: list[str], *, started: float) -> None:
    """Measure, write ``results.json``, and make a report of it."""
    given = parser().parse_args(arguments)
    device = given.device
    preset = (FIRST_CONTACT if given.command else EVERYTHING)[device]
    ours_named = preset.ours if given.ours is None else _names(given.ours)
    peers_named = preset.peers if given.peers is None else _names(given.peers)
    options = Options(
        device=device,
        dtypes=given.dtype or preset.dtypes,
        ids=given.ids or preset.ids,
        deadline=DEADLINE[given.command] if given.deadline is None else given.deadline,
        limit=LIMIT[given.command] if given.limit is None else given.limit,
        sizes=given.sizes or preset.sizes,
        widths=given.widths or preset.widths,
        losses=given.losses,
        names=[NAIVE.name, *ours_named, *peers_named],
        sections=given.sections or preset.sections,
        modes=given.modes or preset.modes,
        features=given.features or preset.features,
        rounds=given.rounds,
        seed=secrets.randbelow(2**31) if given.seed is None else given.seed,
        threads=given.threads,
    )
    torch.set_num_threads(given.threads)
    path = given.output / "results.json"
    Results.start(path, options, started=started, **about(arguments))
    supervise(path)
    write_report(path)
    if given.command:
        for line in threshold_lines(Results.load(path).data):
            say(line)


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    known = [x.name for x in [*ours(), *PEERS]]
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.losses",
        description="Compare losses; 'report results.json' makes table and plots of a run again.",
    )
    add = made.add_argument
    add(
        "command",
        nargs="?",
        choices=("first-contact", ""),
        default="",
        help="first-contact: what to run first on a GPU that is there for minutes",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--deadline",
        type=float,
        help=f"seconds, after which nothing goes on; {DEADLINE['']:.0f}, "
        f"of first-contact {DEADLINE['first-contact']:.0f}",
    )
    add("--limit", type=float, help="seconds after which a call is taken to hang, and is left out")
    add("--output", type=Path, default=Path("runs/benchmark"), help="folder of the results")
    add("--sizes", type=_numbers, help="rows, as 4096,8192")
    add("--widths", type=_numbers, help="of the embeddings, as 512,768")
    add("--losses", type=_some(LOSSES), default=list(LOSSES))
    add("--sections", type=_some(SHARES), help=", ".join(SHARES))
    add("--modes", type=_some(MODES), help="of the speed section")
    add("--features", type=_some(FEATURES), help="of the speed section")
    add("--ids", type=_some(IDS), help=f"of the speed section: {', '.join(IDS)}")
    add("--ours", help=f"of {', '.join(x.name for x in ours())}")
    add(
        "--peers",
        help=f"of {', '.join(known)}; module:attribute is an Implementation of yours",
    )
    add(
        "--dtype",
        type=_some(DTYPES),
        help="of the features; amp is fp32 under autocast in bf16",
    )
    add("--rounds", type=int, default=0, help="at least so many, also for what is slow")
    add("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    add("--seed", type=int, help="a fresh one if not given")
    add("--wheels", metavar="FOLDER", help="import what is missing from the wheels in a folder")
    return made


def _names(text: str) -> list[str]:
    return [x for x in text.split(",") if x]


def _numbers(text: str) -> list[int]:
    return sorted(int(x) for x in text.split(","))


def _some(known: Iterable[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        if unknown := set(_names(text)) - set(known):
            msg = f"unknown: {', '.join(unknown)}"
            raise argparse.ArgumentTypeError(msg)
        return [x for x in known if x in _names(text)]

    return read
