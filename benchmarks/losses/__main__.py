"""The command line."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

import torch

from benchmarks.losses.about import about
from benchmarks.losses.implementations import NAIVE, ours
from benchmarks.losses.peers import PEERS
from benchmarks.losses.plan import DTYPES, SIZES, WIDTHS
from benchmarks.losses.problems import LOSSES
from benchmarks.losses.report import write_report
from benchmarks.losses.results import Options, Results
from benchmarks.losses.run import supervise, work

MODES = ["both", "forward"]
FEATURES = ["unit", "raw"]
SECTIONS = ["ceilings", "correctness", "speed"]


def main(arguments: list[str]) -> None:
    """Run, or make a report of what a run wrote; ``work`` is for a run's own processes."""
    match arguments:
        case ["report", path]:
            write_report(Path(path))
        case ["work", path, seconds]:
            work(Path(path), float(seconds))
        case _:
            run(arguments)


def run(arguments: list[str]) -> None:
    """Measure, write ``results.json``, and make a report of it."""
    given = parser().parse_args(arguments)
    device = given.device
    options = Options(
        device=device,
        dtype=given.dtype or ("bf16" if device == "cuda" else "fp32"),
        deadline=given.deadline,
        sizes=given.sizes or SIZES[device],
        widths=given.widths or WIDTHS[device],
        losses=given.losses,
        names=[NAIVE.name, *_names(given.ours), *_names(given.peers)],
        sections=given.sections,
        modes=given.modes,
        features=given.features,
        rounds=given.rounds,
        seed=secrets.randbelow(2**31) if given.seed is None else given.seed,
        threads=given.threads,
    )
    torch.set_num_threads(given.threads)
    path = given.output / "results.json"
    Results.start(path, options, **about(device, arguments))
    supervise(path)
    write_report(path)


def parser() -> argparse.ArgumentParser:
    """Return the options of a run."""
    known = [x.name for x in [*ours(), *PEERS]]
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.losses",
        description="Compare losses; 'report results.json' makes table and plots of a run again.",
    )
    add = made.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--deadline", type=float, default=420.0, help="seconds; what has not begun is skipped")
    add("--output", type=Path, default=Path("runs/benchmark"), help="folder of the results")
    add("--sizes", type=_numbers, help="rows, as 4096,8192")
    add("--widths", type=_numbers, help="of the embeddings, as 512,768")
    add("--losses", type=_some(LOSSES), default=list(LOSSES))
    add("--sections", type=_some(SECTIONS), default=SECTIONS)
    add("--modes", type=_some(MODES), default=MODES, help="of the speed section")
    add("--features", type=_some(FEATURES), default=FEATURES, help="of the speed section")
    add("--ours", default=",".join(x.name for x in ours()))
    add(
        "--peers",
        default=",".join(x.name for x in PEERS),
        help=f"of {', '.join(known)}; module:attribute is an Implementation of yours",
    )
    add("--dtype", choices=DTYPES, help="of the features; fp32 on a CPU, bf16 on a GPU")
    add("--rounds", type=int, default=0, help="at least so many, also for what is slow")
    add("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    add("--seed", type=int, help="a fresh one if not given")
    return made


def _names(text: str) -> list[str]:
    return [x for x in text.split(",") if x]


def _numbers(text: str) -> list[int]:
    return sorted(int(x) for x in text.split(","))


def _some(known: list[str] | tuple[str, ...]):
    def read(text: str) -> list[str]:
        if unknown := set(_names(text)) - set(known):
            msg = f"unknown: {', '.join(unknown)}"
            raise argparse.ArgumentTypeError(msg)
        return [x for x in known if x in _names(text)]

    return read


if __name__ == "__main__":
    main(sys.argv[1:])
