"""The doctor of a run's folder: its log, and its final split against what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.doctor import Finding, RunLog, diagnose
from contrastive.errors import ContrastiveError, DataError
from contrastive.reporting.run_log import read_log

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.reporting.run_log import SharedFacts
    from contrastive.spec import RunSpec


def run_log_of(folder: Path) -> RunLog:
    """Return the log of a run.

    Raises:
        DataError: the folder is not that of a run, or the run has no steps.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder; give the folder of a run"
        raise DataError(msg)
    path = folder / "log.jsonl"
    log = RunLog(read_log(path))
    if not log.steps:
        msg = f"{path}: no steps here to judge; give the folder of a run"
        raise DataError(msg)
    return log


def examine(folder: Path, run: RunSpec | None) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with a run, and what could not be looked at.

    Args:
        folder: of the run.
        run: its spec, if that can be read: then the final split is compared with training too.

    Raises:
        DataError: the folder is not that of a run, or the run has no steps.
    """
    log = run_log_of(folder)
    about: dict[str, Any] = dict(log.run)
    unseen: list[str] = []
    if run is not None:
        loss = run.model.loss.model_dump(mode="json")
        about = {
            "batch": run.training.batch_size,
            "embed_dim": run.model.embed_dim,
            "loss": loss,
        } | about  # an older log does not say
        final = run.evaluation.final_split
        try:
            shared = _final_split(folder, run)
            about["held_out"] = about.get("held_out", {}) | {final: shared}
        except ContrastiveError as error:
            unseen.append(f"split {final!r} is not looked at: {error}")
    return diagnose([{"step": 0, "run": about}, *log.lines]), unseen


def _final_split(folder: Path, run: RunSpec) -> SharedFacts:
    from contrastive.data.samples import rows_of
    from contrastive.datasets.built_split import split_reader
    from contrastive.doctor.run_facts import shared_facts
    from contrastive.model.loading import find_model, stored_samples
    from contrastive.model.saved_folder import open_folder

    seen = stored_samples(open_folder(find_model(folder)))
    read = split_reader(run.data)  # which reads what splits share once
    training = rows_of(read(run.training.split, purpose="training"))
    return shared_facts(training, rows_of(read(run.evaluation.final_split)), seen)
