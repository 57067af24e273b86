"""What would end a run, or leave an epoch unmeasured, after hours: tried before the first step."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.columns import chosen, values_of
from contrastive.data.decodable import undecodable
from contrastive.distributed.shared_work import shared_work
from contrastive.errors import DataError, TrainingError, WeightsError
from contrastive.model.run_checkpoints import checkpoint_folder, checkpoints_of
from contrastive.model.saved_folder import remove_folder
from contrastive.nn.sharded_tensors import has_shards
from contrastive.training.checkpoints import Progress, step_files, write_files
from contrastive.training.optimizer import takes_one_pass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.data.samples import Sample, Samples
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches

MEGABYTE = 1_000_000


def check_images(
    model: ContrastiveModel, samples: Samples, rows: Sequence[Sample], split: str, *, workers: int
) -> None:
    """Decode the images of ``rows``, those of ``samples``, that each epoch is measured on.

    Ranks that share the work decode some of them each.

    Raises:
        DataError: more are bad than ``max_bad`` allows; names the first.
    """
    if "image" not in model.towers:
        return
    known = bad_rows_of(samples)
    bad_rows = known.copy()
    work = shared_work()
    own = work.ranks.shard([*range(len(rows))])  # neighbours may have one image
    found = undecodable(chosen(values_of(rows, "image"), own), workers=workers)
    for problems in work.all_gather(
        f"checks {len(rows)} images", {own[i]: problem for i, problem in found.items()}
    ):
        for i, problem in problems.items():
            bad_rows.report(str(rows[i].get("source", f"row {i}")), problem)
    try:
        bad_rows.check(len(rows) + known.bad)
    except DataError as error:
        msg = f"evaluation.split {split!r}: {error}"
        raise DataError(msg) from None


def check_room(
    folder: Path,
    spec: RunSpec,
    model: ContrastiveModel,
    optimizer: torch.optim.AdamW,
    batches: TrainingBatches,
) -> None:
    """Write a checkpoint of the size that those of the run will have, and remove it.

    The main rank does; of a sharded model the others write their shards.

    Raises:
        TrainingError: it cannot be written, or there is no room for those that a run keeps.
    """
    sharded, work = has_shards(model), shared_work()
    if not (batches.ranks.is_main or sharded):
        return
    place, there = checkpoint_folder(folder, 0), checkpoints_of(folder)
    if work.all_gather("looks for checkpoints", place in there)[0] if sharded else place in there:
        return  # the run goes on from there
    moments: dict[Tensor, dict[str, Tensor]] = {
        p: {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(p, device=None if sharded else "cpu"),
            "exp_avg_sq": torch.zeros_like(p, device=None if sharded else "cpu"),
        }
        for p in model.parameters()
        if p.requires_grad
    }
    needed = sum(t.nbytes for of_one in moments.values() for t in of_one.values())
    needed += sum(t.nbytes for t in model.state_dict().values())
    try:
        fused, state = takes_one_pass(optimizer), optimizer.state or moments
        files = step_files(spec, model, state, batches, Progress(), place, fused=fused)
        write_files(place, files, work)
        if not batches.ranks.is_main:
            return
        needed = sum(path.stat().st_size for path in place.iterdir())
        remove_folder(place)
    except (OSError, WeightsError) as error:
        with suppress(OSError):  # it is not empty, unless this made it
            place.parent.rmdir()
        in_our_words = isinstance(error, WeightsError)
        problem = error if in_our_words else f"{error.filename or place}: {error.strerror}"
        free = shutil.disk_usage(folder).free // MEGABYTE
        msg = f"{problem}; a checkpoint takes about {needed // MEGABYTE:,} MB, {free:,} MB are free"
        raise TrainingError(msg) from error
    # one more is there while the oldest goes, and the model at the end
    most = spec.training.keep.last + bool(spec.training.keep.best) + 2
    total = needed * max(1, most - len(there))
    if (free := shutil.disk_usage(folder).free) < total:
        msg = (
            f"{folder}: {free // MEGABYTE:,} MB are free, and up to {most} checkpoints of "
            f"{needed // MEGABYTE:,} MB are kept at a time; make room, or choose another output"
        )
        raise TrainingError(msg)
