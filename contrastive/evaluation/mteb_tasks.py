"""Measure a model on tasks of mteb: those that it knows by name, and tasks given as objects."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.console import say, say_omission
from contrastive.data.storage.folders import check_writable_folder
from contrastive.errors import DataError, SpecError, reason_of
from contrastive.evaluation.mteb_local import ANY_HIT
from contrastive.evaluation.retrieval import KS
from contrastive.evaluation.tabular import Tabular
from contrastive.nn.device import batch_size

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence
    from pathlib import Path

    from contrastive.evaluation.mteb_encoder import MtebEncoder

LOCAL = "data"
"""The name that stands for the run's own data."""
COMMA = re.compile(r",(?![^(]*\))")  # but not that of MTEB(eng, v2)


@dataclass(frozen=True)
class MtebScore:
    """What mteb found on one split of one subset of a task."""

    task: str
    type: str
    split: str
    subset: str
    metric: str
    """The task's main metric."""
    value: float
    recall: dict[int, float]
    """Any-hit recall at k, of a retrieval task."""
    scores: dict[str, float]
    """Every metric of mteb by its name."""


@dataclass(frozen=True)
class MtebReport(Tabular):
    """Scores of a model on tasks of mteb."""

    model: str
    revision: str
    """Of the weights and the spec."""
    mteb_version: str
    scores: list[MtebScore] = field(default_factory=list[MtebScore])
    left_out: list[str] = field(default_factory=list[str])
    """Tasks that were not measured, with the reason, one line each."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each score, without the metrics beside the main one."""
        columns = ("task", "type", "split", "subset", "metric", "value")
        return [{name: getattr(score, name) for name in columns} for score in self.scores]


def names_of_tasks(texts: Sequence[str]) -> list[str]:
    """Return names that are joined by commas, each once; a comma in brackets is part of a name."""
    parts = [part.strip() for text in texts for part in COMMA.split(text)]
    return [*dict.fromkeys(part for part in parts if part)]


def tasks_named(names: Sequence[str], modalities: Collection[str]) -> list[Any]:
    """Return the tasks of mteb with these names, or of the benchmarks with these names.

    Those of a benchmark that need a tower which the model lacks are left out, and told.

    Raises:
        SpecError: mteb has no such task, or it needs a tower that the model lacks.
        MissingExtra: mteb is not installed.
    """
    with _quietly():
        mteb = require("mteb", extra="mteb")
    found: dict[str, Any] = {}
    for name in names:
        if task := _task_named(mteb, name):
            if lacking := _lacking(task, modalities):
                msg = f"--mteb {name}: is of {lacking}; choose tasks of what the model has"
                raise SpecError(msg)
            found[name] = task
            continue
        tasks = _benchmark_named(mteb, name).tasks
        fitting = [task for task in tasks if not _lacking(task, modalities)]
        if not fitting:
            msg = f"--mteb {name}: each of its tasks is of {_lacking(tasks[0], modalities)}"
            raise SpecError(f"{msg}; choose tasks of what the model has")
        if len(fitting) < len(tasks):
            rest = next(task for task in tasks if _lacking(task, modalities))
            say_omission(
                f"{name}: {len(tasks) - len(fitting)} of {len(tasks)} tasks are left out, such as "
                f"{rest.metadata.name}, which is of {_lacking(rest, modalities)}"
            )
        found |= {task.metadata.name: task for task in fitting}
    return [*found.values()]


def _task_named(mteb: Any, name: str) -> Any:
    try:
        with _quietly():
            return mteb.get_task(name)
    except KeyError:
        return None


def _benchmark_named(mteb: Any, name: str) -> Any:
    try:
        with _quietly():
            return mteb.get_benchmark(name)
    except KeyError:
        with _quietly():
            known = [task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)]
            known += [LOCAL, *(benchmark.name for benchmark in mteb.get_benchmarks())]
        by_letters = {each.casefold(): each for each in known}
        close = difflib.get_close_matches(name.casefold(), by_letters, n=1)
        hint = f"did you mean {by_letters[close[0]]!r}?" if close else "mteb.get_tasks() lists them"
        msg = f"--mteb {name}: mteb {mteb.__version__} has no such task or benchmark; {hint}"
        raise SpecError(msg) from None


def _lacking(task: Any, modalities: Collection[str]) -> str:
    """Return what a task needs that a model lacks, or nothing."""
    lacks = [modality for modality in task.metadata.modalities if modality not in modalities]
    return f"{' and '.join(lacks)}, for which the model has no tower" if lacks else ""


def measure(encoder: MtebEncoder, tasks: Sequence[Any], folder: Path | None = None) -> MtebReport:
    """Measure a model on tasks, one after the other.

    A task whose data cannot be loaded is left out and told, unless none is left.

    Args:
        encoder: the model.
        tasks: of mteb.
        folder: keeps mteb's result files, and has the results of tasks that were measured before
            with equal weights; without it none are kept.

    Raises:
        DataError: no task could be measured, or the folder cannot be written to.
        MissingExtra: mteb is not installed.
    """
    mteb = require("mteb", extra="mteb")
    if folder:
        check_writable_folder(folder, what="results")
    cache = mteb.ResultCache(folder) if folder else None
    report = MtebReport(encoder.name, encoder.revision, mteb.__version__)
    for task in tasks:
        name, local = task.metadata.name, task.data_loaded
        if cache and not local and (kept := _kept(cache, name, encoder)):
            say(f"{name}: measured before with these weights, read from {kept}; move it to repeat")
        elif problem := _load(task):
            report.left_out.append(problem)
            continue
        with _quietly(), _no_bars():
            found = mteb.evaluate(
                encoder,
                task,
                cache=cache,
                overwrite_strategy="always" if local else "only-missing",
                encode_kwargs={"batch_size": batch_size(encoder.model), "show_progress_bar": False},
                show_progress_bar=False,
                co2_tracker=False,
            )
        for result in found.task_results:
            report.scores.extend(_scores(result, task))
        if not local:
            task.unload_data()
    if not report.scores:
        raise DataError("\n".join(report.left_out))
    for line in report.left_out:
        say_omission(line)
    if folder:
        say(f"written: {folder}")
    return report


@contextmanager
def _quietly() -> Generator[None]:
    """Within a block, let mteb and what it uses tell of their own tasks and metrics nothing."""
    log = logging.getLogger("mteb")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _no_bars() -> Generator[None]:
    """Within a block, let datasets show no progress of its own."""
    datasets = require("datasets", extra="mteb")
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _kept(cache: Any, name: str, encoder: MtebEncoder) -> Path | None:
    path: Path = cache.get_task_result_path(name, encoder.mteb_model_meta)
    return path if path.is_file() else None


def _load(task: Any) -> str:
    """Load the data of a task; return why they cannot be loaded, or nothing."""
    for part in getattr(task.metadata, "tasks", [task]):  # of several, if it is their mean
        try:
            with _quietly():
                part.load_data()
        except Exception as error:  # of the network, the hub or the format, each with its own kind
            of = part.metadata.dataset["path"]
            return (
                f"{part.metadata.name}: {of} cannot be loaded from the Hugging Face Hub "
                f"({reason_of(error)}); without a connection, a copy of it in ./{of} is read"
            )
    return ""


def _scores(result: Any, task: Any) -> list[MtebScore]:
    main = task.metadata.main_score
    return [
        MtebScore(
            result.task_name,
            task.metadata.type,
            split,
            scores["hf_subset"],
            main,
            scores["main_score"],
            {k: value for k in KS if (value := _recall(scores, k)) is not None},
            {name: x for name, x in scores.items() if isinstance(x, (int, float))},
        )
        for split, subsets in result.scores.items()
        for scores in subsets
    ]


def _recall(scores: dict[str, Any], k: int) -> float | None:
    return scores.get(ANY_HIT.format(k), scores.get(f"hit_rate_at_{k}"))
