"""The file that a run writes, step by step, so that whatever ends it leaves what it had."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1


@dataclass(frozen=True)
class Options:
    """What a run was asked for."""

    device: str
    dtype: str
    deadline: float
    """Seconds from the start after which nothing new begins."""
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


@dataclass
class Results:
    """``results.json`` and, beside it, a note of what is going on."""

    path: Path
    data: dict[str, Any]

    @classmethod
    def start(cls, path: Path, options: Options, **about: Any) -> Results:
        """Begin a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        empty = {"ceilings": [], "correctness": [], "speed": [], "host": [], "skipped": []}
        head = {"format": FORMAT, "about": about, "options": asdict(options)}
        results = cls(path, head | {"implementations": {}, "ended": {}, "done": []} | empty)
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

    def save(self) -> None:
        """Replace the file by what is known now."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        part.replace(self.path)

    def note(self, step: str, implementation: str = "") -> None:
        """Say what is about to happen, for the case that it is the last thing that does."""
        self._now.write_text(json.dumps({"step": step, "implementation": implementation}))

    def noted(self) -> dict[str, str]:
        """Return the last note."""
        return json.loads(self._now.read_text()) if self._now.exists() else {}

    def forget_note(self) -> None:
        """Remove the note."""
        self._now.unlink(missing_ok=True)

    @property
    def _now(self) -> Path:
        return self.path.with_suffix(".now")
