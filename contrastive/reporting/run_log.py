"""What happened at each step, as JSON lines that survive a crash and a resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, Self, TypedDict, cast

from torch import Tensor

if TYPE_CHECKING:
    from contrastive.evaluation.evaluate import EvaluationReport


class CaptionFacts(TypedDict):
    """How the captions and the ids of the training split relate."""

    rows: int
    groups: int
    duplicated: int
    """Rows whose caption is also at another id."""
    met: float
    """Expected share of a batch's rows that meet their own caption at another id."""
    example: str
    """The caption that stands at most rows."""
    floor: float
    """Least InfoNCE loss where rows of one id are all positives."""


class SharedFacts(TypedDict):
    """What a held-out split shares with training."""

    groups: int
    known: int
    """Groups that training has too."""
    first: str
    """Where the first of them is."""


class RunFacts(TypedDict, total=False):
    """What does not change in a run."""

    batch: int
    """Candidates of each row."""
    batch_of_process: int
    """Rows of this rank."""
    steps: int
    warmup: int
    embed_dim: int
    loss: dict[str, Any]
    """The spec of the loss."""
    captions: CaptionFacts
    held_out: dict[str, SharedFacts]
    """By split."""


class LogLine(TypedDict, total=False):
    """A line of the log. That of a step also has the metrics of its loss, by their names."""

    step: Required[int]
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    log_scale: float
    evaluation: dict[str, Any]
    """An ``EvaluationReport`` as plain data."""
    run: RunFacts
    gradients: dict[str, float]
    """Norm of the gradient of each part that trains."""
    finding: dict[str, Any]
    """What the doctor found, as plain data."""


class Log:
    """An append-only file with a line for each step and each evaluation."""

    def __init__(self, path: Path | None, *, keep_until: int = 0) -> None:
        """Open ``path``; lines after step ``keep_until`` belong to work that is done again.

        None keeps nothing: the main rank has the log.
        """
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(path) if line["step"] <= keep_until]
            building = path.with_suffix(".tmp")
            building.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            building.replace(path)
        self.path = path = path or Path(os.devnull)
        self.file = path.open("a", encoding="utf-8", buffering=1)  # a line is written at once

    def step(self, step: int, epoch: float, **metrics: Tensor | float) -> None:
        """Note the metrics of one step."""
        plain = {k: v.item() if isinstance(v, Tensor) else v for k, v in metrics.items()}
        self._write({"step": step, "epoch": epoch, **plain})

    def evaluation(self, step: int, epoch: float, report: EvaluationReport) -> None:
        """Note an evaluation."""
        self._write({"step": step, "epoch": epoch, "evaluation": report.as_dict()})

    def note(self, line: LogLine) -> None:
        """Note something else, as plain data."""
        self._write({**line})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line | {"epoch": round(line["epoch"], 6)}) + "\n")


def read_log(path: Path) -> list[LogLine]:
    """Return the lines of a log up to one that is damaged: a crash may have cut off the last."""
    if not path.exists():
        return []
    lines: list[LogLine] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(cast("LogLine", line))
    return lines
