"""The log of a run by what its lines hold, and what a check finds in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.reporting.run_log import LogLine, RunFacts

ENOUGH = 50
"""Steps after the warm-up before a loss is judged: a healthy one has begun to fall by then."""
AT_END = 20
"""Steps that are enough when the run is over: nothing will come any more."""
WINDOW = 20
"""Steps whose median stands for the present: a single batch may be lucky."""
NO_PROGRESS = 0.98
"""A loss above this share of ln B has not begun to fall: where nothing is learned it is ln B or
more on average, whatever the embeddings, since the logarithm of a mean is at least the mean."""
TARGETS = 16
"""Targets and queries below which recall cannot be told from guessing."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    code: str
    """Its name, the same in every version: ``collapsed``."""
    what: str
    """What is wrong, with the numbers that show it."""
    remedy: str
    """What to do."""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    """The numbers that show it."""

    @property
    def sentence(self) -> str:
        """What is wrong and what to do, in one sentence."""
        return f"{self.what}; {self.remedy}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RunLog:
    """The lines of a log, by what they hold."""

    lines: Sequence[LogLine]

    @cached_property
    def run(self) -> RunFacts:
        """What does not change in a run: batch, loss, warm-up, captions."""
        return next((line["run"] for line in self.lines if "run" in line), {})

    @cached_property
    def steps(self) -> list[LogLine]:
        """Loss, learning rate, logit scale, ... of each step."""
        return [line for line in self.lines if {"step", "loss"} <= line.keys()]

    @cached_property
    def measured(self) -> list[Mapping[str, Any]]:
        """The evaluations."""
        return [line["evaluation"] for line in self.lines if "evaluation" in line]

    @cached_property
    def start(self) -> Mapping[str, Mapping[str, Any]]:
        """The geometry of each modality's embeddings before the first step."""
        found = [line["start"]["geometry"] for line in self.lines if "start" in line]
        return found[0] if found else {}

    @property
    def loss(self) -> Mapping[str, Any]:
        """The spec of the loss."""
        return self.run.get("loss", {})

    @property
    def innermost(self) -> Mapping[str, Any]:
        """The spec of the loss that has the temperature, within any that wrap it."""
        return self._innermost[1]

    @property
    def loss_field(self) -> str:
        """Where the spec of a run has that loss."""
        return self._innermost[0]

    @cached_property
    def _innermost(self) -> tuple[str, Mapping[str, Any]]:
        path, loss = "model.loss", cast("Any", self.loss)
        while isinstance(inner := loss.get("loss"), Mapping):
            path, loss = f"{path}.loss", cast("Mapping[str, Any]", inner)
        return path, loss

    def has_field(self, name: str) -> bool:
        """Whether the spec's data have a field."""
        return name in self.run.get("data_fields", ())

    @property
    def all_encoders_frozen(self) -> bool:
        """Whether no encoder trains, so that freezing one is no remedy."""
        frozen = self.run.get("frozen", {})
        return bool(frozen) and "none" not in frozen.values()

    @property
    def is_infonce(self) -> bool:
        """Whether the loss is InfoNCE, whose values mean what the checks take them to mean."""
        return self.loss.get("type") == "infonce"

    @property
    def starts_at_uniform(self) -> bool:
        """Whether the loss of a healthy run falls from the start; a queue that fills raises it."""
        return self.loss.get("type") in ("infonce", "sigmoid")

    @property
    def batch(self) -> int:
        """Candidates of each row, the batch size; 0 if unknown, or if the loss has none."""
        batch = int(self.run.get("batch") or 0)
        return batch if batch > 1 else 0

    @property
    def uniform_loss(self) -> float:
        """Loss where all candidates are alike."""
        return math.log(self.batch)

    @property
    def enough(self) -> bool:
        """Whether the loss may be judged."""
        done = self.steps[-1]["step"] if self.steps else 0
        over = done >= self.run.get("steps", math.inf)
        needed = AT_END if over else ENOUGH + self.run.get("warmup", 0)
        return len(self.steps) >= AT_END and done >= needed

    def recent(self, name: str) -> float | None:
        """Return the median of a metric over the last steps, if it is still logged."""
        values = self.series(name)
        return median(values[-WINDOW:]) if values and name in self.steps[-1] else None

    def series(self, name: str) -> list[float]:
        """Return a metric at each step that has it."""
        return [line[name] for line in self.steps if isinstance(line.get(name), (int, float))]


def floor(scale: float, batch: int) -> float:
    """Return the least InfoNCE loss at a logit scale: matched rows agree, all others are a simplex.

    Negatives cannot all be opposite: the mean cosine of B unit vectors is at least -1 / (B - 1).
    """
    return math.log1p((batch - 1) * math.exp(-scale * batch / (batch - 1)))


def above_chance(evaluation: Mapping[str, Any]) -> bool | None:
    """Whether recall is above that of guessing; None if the split is too small to tell.

    One interval of several may be above chance by luck, so most of a direction's have to.
    """
    directions = [
        d
        for d in evaluation.get("retrieval", {}).values()
        if min(d["targets"], d["queries"]) >= TARGETS
    ]
    if not directions:
        return None
    return any(_clearly_better(direction) for direction in directions)


def _clearly_better(direction: Mapping[str, Any]) -> bool:
    estimates = [e for e in direction["recall"].values() if e["chance"] < 0.9]
    better = sum(e["low"] > e["chance"] for e in estimates)
    return better > len(estimates) / 2


def first_recall(direction: Mapping[str, Any]) -> Mapping[str, float]:
    """Return recall at the least k, which JSON and Python name differently."""
    return min(direction["recall"].items(), key=lambda item: int(item[0]))[1]
