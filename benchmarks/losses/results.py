"""The file that a run writes, step by step, so that whatever ends it leaves what it had."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2
LISTS = ("ceilings", "correctness", "speed", "host", "kernels", "lost", "skipped", "steps", "done")


@dataclass(frozen=True)
class Options:
    """What a run was asked for."""

    device: str
    dtypes: list[str]
    """Of the features, keys of ``problems.DTYPES``; the first is that of the correctness checks."""
    ids: list[str]
    """Keys of ``problems.IDS``, in the speed section."""
    deadline: float
    """Seconds from the start after which nothing goes on."""
    limit: float
    """Seconds after which one call of a case is taken to hang."""
    sizes: list[int]
    widths: list[int]
    losses: list[str]
    names: list[str]
    """Of the implementations; the first is what the others are compared to."""
    sections: list[str]
    modes: list[str]
    features: list[str]
    """unit or raw, in the speed section."""
    rounds: int
    """At least so many rounds, also for what is slow."""
    seed: int
    threads: int


@dataclass(frozen=True)
class Note:
    """What is about to happen, and after how many seconds it is taken to hang."""

    step: str
    implementation: str
    limit: float


@dataclass
class Results:
    """``results.json``, and notes of what is going on to whoever watches."""

    path: Path
    data: dict[str, Any]
    notes: int | None = None
    """The pipe for them."""

    @classmethod
    def start(cls, path: Path, options: Options, *, started: float, **about: Any) -> Results:
        """Begin a file; ``started`` is the ``time.time()`` from which the deadline counts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = {"format": FORMAT, "about": about, "options": asdict(options), "started": started}
        empty: dict[str, Any] = {name: [] for name in LISTS}
        results = cls(path, head | {"implementations": {}, "ended": {}, "compiled": {}} | empty)
        results.save()
        return results

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that a run has begun."""
        return cls(path, json.loads(path.read_text()))

    @property
    def options(self) -> Options:
        """What the run was asked for."""
        return Options(**self.data["options"])

    @property
    def ends(self) -> float:
        """``time.time()`` at which a process is ended; the rest is for the report."""
        deadline = self.options.deadline
        return self.data["started"] + deadline - min(5.0, 0.1 * deadline)

    def until(self, share: float) -> float:
        """Return the ``time.time()`` after which nothing new begins in a share of the time."""
        spare = min(10.0, 0.05 * self.options.deadline)  # to complete what is under way
        return self.data["started"] + share * (self.ends - self.data["started"] - spare)

    def add(self, section: str, entry: dict[str, Any]) -> None:
        """Append what is known now to a section, and save."""
        self.data[section].append(entry)
        self.save()

    def save(self) -> None:
        """Replace the file by what is known now."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.path)

    def note(self, step: str, implementation: str = "", *, limit: float | None = None) -> None:
        """Say what is about to happen, for the case that it is the last thing that does.

        ``limit`` is after how many seconds it is taken to hang, if not after the run's.
        """
        note = Note(step, implementation, self.options.limit if limit is None else limit)
        if self.notes is not None:
            os.write(self.notes, f"{json.dumps(asdict(note))}\n".encode())
