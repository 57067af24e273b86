"""The doctor's check after each epoch: what a run logs of itself, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from contrastive.console import say
from contrastive.data.samples import NOT_MODALITIES, rows_of
from contrastive.doctor import diagnose
from contrastive.doctor.run_facts import caption_facts, shared_facts
from contrastive.reporting.run_log import read_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from contrastive.data.samples import Sample, Samples
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.run_log import FindingShape, Log, LogLine, RunFacts, SharedFacts
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches

STEPS = 1_000
"""That are judged in full; of those before, some, so that a long run takes no more memory."""


def check_up(
    log: Log,
    spec: RunSpec,
    batches: TrainingBatches,
    held_out: Samples | None,
    step: int,
    norms: dict[str, float],
) -> None:
    """Check a run at the end of an epoch; each finding is printed once and logged.

    ``norms`` are those of ``gradients``, then.
    """
    epoch = step / batches.steps_per_epoch
    lines = read_log(log.path, steps=STEPS)
    notes: list[LogLine] = [{"step": step, "epoch": epoch, "gradients": norms}]
    if not any("run" in line for line in lines):
        facts = _facts(spec, batches, held_out)
        notes.append({"step": step, "epoch": epoch, "run": facts})
    for note in notes:
        log.note(note)
    said = {line["finding"]["code"] for line in lines if "finding" in line}
    for finding in diagnose([*lines, *notes]):
        if finding.code not in said:
            say(f"doctor: {finding.code}: {finding.sentence}")
            log.note(
                {"step": step, "epoch": epoch, "finding": cast("FindingShape", finding.as_dict())}
            )


def gradients(model: ContrastiveModel) -> dict[str, float]:
    """Return the norm of the last step's gradient, for each part of a tower that is trained."""
    norms: dict[str, float] = {}
    for modality in model.towers:
        tower = model.tower(modality)
        for kind, part in (("encoder", tower.encoder), ("head", tower.head)):
            trained = [p for p in part.parameters() if p.requires_grad]
            if trained:
                found: list[Tensor] = [p.grad.norm() for p in trained if p.grad is not None]
                norms[f"{modality}.{kind}"] = torch.stack(found).norm().item() if found else 0.0
    return norms


def _compared(rows: Sequence[Sample], modalities: Iterable[str]) -> list[Sample]:
    """Return what the model sees of the rows: captions that no tower reads cannot be negatives."""
    kept = (*NOT_MODALITIES, *modalities)
    return [{name: value for name, value in row.items() if name in kept} for row in rows]


def _facts(spec: RunSpec, batches: TrainingBatches, held_out: Samples | None) -> RunFacts:
    """Return what holds for the whole run."""
    settings, loss = spec.training, spec.model.loss.model_dump(mode="json")
    own = len(batches.ranks.shard([0] * batches.batch_size))
    batch = own if loss.get("negatives") == "local" else batches.batch_size
    steps = settings.epochs * batches.steps_per_epoch
    shared: dict[str, SharedFacts] = {}
    if held_out is not None:
        shared = {str(spec.evaluation.split): shared_facts(batches.rows, rows_of(held_out), {})}
    return {
        "batch": batch,
        "batch_of_process": own,
        "steps": steps,
        "warmup": round(settings.warmup * steps),
        "embed_dim": spec.model.embed_dim,
        "loss": loss,
        "captions": caption_facts(_compared(batches.rows, spec.model.towers), batch),
        "held_out": shared,
    }
