"""The doctor's check after each epoch: what a run logs of itself, and what is wrong with it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.columns import ids_of, some_rows
from contrastive.data.samples import rows_of
from contrastive.doctor import diagnose
from contrastive.doctor.run_facts import caption_facts, shared_facts
from contrastive.doctor.run_record import RunLog
from contrastive.doctor.towers import same_at_start, zero_embeddings
from contrastive.evaluation.geometry import geometry
from contrastive.inference.embed_distinct import embed_modality
from contrastive.nn.sharded_tensors import total_norm
from contrastive.reporting.clip_benchmark import dataset_name
from contrastive.reporting.run_log import read_log
from contrastive.training.built import autocast_dtype, precision_name

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.run_log import (
        FindingShape,
        GeometryShape,
        Log,
        LogLine,
        RunFacts,
        SharedFacts,
    )
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches

STEPS = 1_000
"""That are judged in full; of those before, some, so that a long run takes no more memory."""


AT_START = 256
"""Groups whose embeddings are measured before the first step: their mean cosine is right to two
digits, and a large split costs no more."""


def check_up(
    log: Log,
    spec: RunSpec,
    model: ContrastiveModel,
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
        facts = _facts(spec, model, batches, held_out)
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
    """Return the norm of the last step's gradient, for each part of a tower that is trained.

    A step in fp16 that was left out has none. Of a sharded model, all ranks must ask.
    """
    norms: dict[str, float] = {}
    for modality in model.towers:
        tower = model.tower(modality)
        for kind, part in (("encoder", tower.encoder), ("head", tower.head)):
            trained = [p for p in part.parameters() if p.requires_grad]
            if trained:
                found = [p.grad for p in trained if p.grad is not None]
                norms[f"{modality}.{kind}"] = total_norm(found).item()
    return norms if all(map(math.isfinite, norms.values())) else {}


def geometry_at_start(
    model: ContrastiveModel, held_out: Samples, cache: FeatureCache | None
) -> dict[str, GeometryShape]:
    """Return how the embeddings of a few held-out groups lie, for each modality that they have."""
    measured = rows_of(held_out)
    last = {group: i for i, group in enumerate(ids_of(measured).tolist())}
    step = math.ceil(len(last) / AT_START) or 1  # evenly spaced: neighbours may be of one kind
    rows = some_rows(measured, [*last.values()][::step])
    found: dict[str, GeometryShape] = {}
    for modality in (each for each in model.towers if all(each in row for row in rows)):
        bad_rows = BadRows(budget=1)  # the evaluation tells them
        embedded = embed_modality(model, rows, modality, bad_rows, cache=cache)
        if about := geometry(embedded.embeddings_QD, embedded.ids_Q):
            found[modality] = cast("GeometryShape", asdict(about))
    return found


def tell_of_start(log: Log) -> None:
    """Say if embeddings are all 0 or the same, before a step has been made in vain."""
    found = RunLog(read_log(log.path))
    for finding in zero_embeddings(found):
        say(f"doctor: {finding.code}: {finding.sentence}")
    if line := same_at_start(found.start):
        say(line)


def _batch_norm(model: ContrastiveModel) -> dict[str, float]:
    """Return the least momentum of the BatchNorm that trains, for each tower that has some."""
    found: dict[str, list[float]] = {
        modality: [
            1.0 if module.momentum is None else module.momentum  # None: the mean of all steps
            for module in model.tower(modality).modules()
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
        ]
        for modality in model.towers
    }
    return {modality: min(momenta) for modality, momenta in found.items() if momenta}


def _facts(
    spec: RunSpec, model: ContrastiveModel, batches: TrainingBatches, held_out: Samples | None
) -> RunFacts:
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
        "captions": caption_facts(batches.rows, batch, read="text" in spec.model.towers),
        "held_out": shared,
        "dataset": dataset_name(spec.data),
        "data_fields": [*type(spec.data).model_fields],
        "frozen": {modality: tower.frozen for modality, tower in spec.model.towers.items()},
        "precision": precision_name(autocast_dtype(settings, model.device)),
        "batch_norm": _batch_norm(model),
    }
