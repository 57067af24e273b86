"""What is known of a model beside its weights: measured now, or written down by its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive.data.samples import rows_of
from contrastive.evaluation.evaluate import evaluate
from contrastive.evaluation.truncation import truncated_share
from contrastive.reporting.run_log import read_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.datasets import Dataset
    from contrastive.evaluation.evaluate import EvaluationReport
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.run_log import LogLine
    from contrastive.spec import RunSpec

LOG = "log.jsonl"


@dataclass(frozen=True)
class Record:
    """What is known of a model beside its weights."""

    report: EvaluationReport | None = None
    """Measured on data that it has not seen: ``evaluate`` refuses others."""
    why_not: str = "no data were given"
    """Why there is no report."""
    truncated: float | None = None
    """Share of the captions whose end the text tower does not read."""
    run: RunSpec | None = None
    """That trained it."""
    data: Dataset | None = None
    """What the report is of; those of the run if not given."""
    step: int | None = None
    """After which it was saved, if the run goes on from there, or had to end."""
    log: Sequence[LogLine] = ()
    """Of that run."""
    differences: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of an export, by modality, to the model that was trained."""
    repeatable: bool = False
    """The folder has the samples of that comparison, and ``verify.py``."""
    licence: str | None = None
    """Its identifier on the Hub, such as ``apache-2.0``."""


def measured(model: ContrastiveModel, samples: Samples, **settings: Any) -> Record:
    """Measure a model on data that it has not seen.

    Args:
        model: the model.
        samples: a built dataset.
        settings: of ``evaluate``.

    Raises:
        DataError: training has seen some of these data; see ``evaluate``.
    """
    report = evaluate(model, samples, **settings)
    rows = rows_of(samples)
    texts = [text for row in rows if isinstance(text := row.get("text"), str)]
    share = truncated_share(model, texts)
    return Record(report=report, truncated=share)


def run_log(model: Path, *, step: int | None = None) -> Sequence[LogLine]:
    """Return the log of the run whose folder, or whose model's folder, is given; empty without.

    Lines after ``step`` are left out.
    """
    places = {"model": model.parent, "checkpoints": model.parent.parent}
    folder = places.get(model.name) or places.get(model.parent.name) or model
    lines = read_log(folder / LOG, steps=1) if (folder / LOG).is_file() else ()
    return [line for line in lines if step is None or line.get("step", 0) <= step]
