"""What is timed: works, and the programs that do each, ours and those of other packages.

An arm is a function that is given the folder of the inputs, does its work in a process of its own
and returns what it measured. What cannot be imported is skipped, with the reason.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS = ("step", "frozen", "encode", "start")
"""The works, each a module of this package."""
RESULT = "RESULT "
"""How the line begins on which an arm says what it measured."""


@dataclass(frozen=True)
class Bar:
    """A ratio to a peer that we want to reach."""

    peer: str
    ratio: float
    ours: str = "ours"


@dataclass(frozen=True)
class Work:
    """One thing that several programs do."""

    title: str
    unit: str
    """Of what an arm returns: ``samples/s`` (more is better), or seconds of some kind."""
    arms: dict[str, Callable[[Path], float]]
    bars: tuple[Bar, ...] = ()
    inputs: tuple[Callable[[Path], None], ...] = ()
    """Make what the arms read, once; each is given the folder."""

    @property
    def more_is_better(self) -> bool:
        """Tell rates from times."""
        return self.unit.endswith("/s")


def work(name: str) -> Work:
    """Return a work by its name, one of ``PROGRAMS``."""
    return import_module(f"benchmarks.peers.{name}").WORK


def processor_seconds() -> float:
    """Return what this process and its children that have ended took of the CPU."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(x.ru_utime + x.ru_stime for x in spent)


def main(name: str, arm: str, folder: str) -> None:
    """Run one arm, or with the name ``inputs`` make what all read."""
    chosen = work(name)
    if arm == "inputs":
        for make in chosen.inputs:
            make(Path(folder))
        return
    try:
        value = chosen.arms[arm](Path(folder))
    except ModuleNotFoundError as error:
        result = {"missing": (error.name or str(error)).partition(".")[0]}
    else:
        result = {"value": value}
    print(RESULT + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
