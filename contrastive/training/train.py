"""Training: one loop in plain torch that can be read aloud.

RngState is a function, not a stream: the order of an epoch follows from (seed, epoch), an
augmentation from (seed, epoch, sample index). The only state is dropout's generator, which a
checkpoint holds; so a resumed run is, to the last bit, the run that was never interrupted. With
several ranks dropout is a function too, of (seed, step, rank).
"""

from __future__ import annotations

import math
import multiprocessing
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.arguments import check_cache
from contrastive.console import bar, note_omission, noted_omissions, said_once, say
from contrastive.data.samples import rows_of
from contrastive.data.worker_processes import worker_count
from contrastive.datasets.built_split import split_reader
from contrastive.distributed.batch_norm import global_batch_norm
from contrastive.distributed.ranks import Ranks, launched_ranks
from contrastive.distributed.shared_work import work_shared_by
from contrastive.errors import ContrastiveError, DataError, TrainingError, UnknownSplit
from contrastive.evaluation.leakage import content_keys, copies_in, held_out_rows, seen_samples
from contrastive.features.cache import FeatureCache
from contrastive.losses import Distillation
from contrastive.model.loading import load_model, restore_weights, run_spec
from contrastive.model.run_checkpoints import checkpoint_folder
from contrastive.model.saved_folder import write_folder
from contrastive.nn.rng import RngState
from contrastive.nn.sharded_tensors import has_shards, whole
from contrastive.reporting.run_log import Log
from contrastive.training.batches import TrainingBatches
from contrastive.training.built import (
    autocast_dtype,
    built_for_training,
    compiled_towers,
    lay_out_convolutions_,
)
from contrastive.training.checkpoints import Progress, run_files
from contrastive.training.data_wait import DataWait
from contrastive.training.device_copies import copied_to
from contrastive.training.memory_plan import advice
from contrastive.training.optimizer import clip_gradients_, optimizer_of, set_rates
from contrastive.training.parallel import StepGradients, check_loss_of_ranks, shard_towers_
from contrastive.training.recorder import Recorder
from contrastive.training.remote_output import RemoteOutput, sent_to
from contrastive.training.rescue import finished_steps_saved
from contrastive.training.resume import (
    loss_scale_of,
    restore_optimizer,
    restore_random,
    shared_fields,
    start_or_resume,
)
from contrastive.training.run_folder import locked_run_folder, run_folder
from contrastive.training.same_start import check_same_rows, check_same_start
from contrastive.training.signals import noted_signals
from contrastive.training.start_checks import check_images, check_room
from contrastive.training.step_log import StepLog
from contrastive.training.summary import say_summary
from contrastive.training.tracking import Tracking, check_callbacks, usable_trackers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.data.samples import Samples
    from contrastive.model.model import ContrastiveModel
    from contrastive.model.saved_folder import SavedFolder
    from contrastive.recipe.callback import Callback
    from contrastive.spec import RunSpec

UNMEASURED = "set evaluation.split, or null to measure nothing after an epoch"


class Interrupted(ContrastiveError):  # noqa: N818
    """A signal ended the run at a step boundary; everything until then is saved."""

    def __init__(self, number: int, done: int, total: int) -> None:
        """Remember the signal's number: the exit code is 128 plus it."""
        super().__init__(
            f"interrupted at step {done} of {total}; saved; go on with resume=True (--resume)"
        )
        self.exit_code = 128 + number


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    cache: FeatureCache | None = None,
    callbacks: Sequence[Callback] = (),
) -> ContrastiveModel:
    """Train a model and save it; where ``torchrun`` started several ranks, with all of them.

    Args:
        spec: the model, the data and the training: a ``RunSpec``, a dict of the same content, or a
            YAML file's path.
        output: folder of the run, with ``log.jsonl``, ``checkpoints/`` and at the end ``model/``;
            by default ``output`` of the spec, else ``runs/NAME`` for a spec in NAME.yaml. Or the
            address of a storage (``s3://bucket/runs/a``), to which a folder in ``runs/`` is sent.
        resume: go on from the newest whole checkpoint in that folder.
        cache: keeps the features of frozen encoders; the user's own if None.
        callbacks: are called while it trains, on the main rank.

    Returns:
        The trained model, in eval mode, on the device that it was trained on.

    Raises:
        SpecError: the spec has mistakes; one line for each.
        DataError: the data cannot be read, or the evaluation split shares images with training.
        TrainingError: the folder holds a run already, there is nothing to resume, the loss needs a
            teacher or is no longer finite, a worker process imports the calling script, another
            rank of the run has ended, or has other data or another spec, or a callback raises.
        Interrupted: by a signal, after saving.

    Example:
        >>> training = {"epochs": 1, "batch_size": 2, "workers": 0}
        >>> data = {"type": "image-folder", "folder": "photos"}
        >>> trained = train({"model": SPEC, "data": data, "training": training}, "runs/photos")
        >>> Path("runs/photos/log.jsonl").exists()
        True
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        msg = (
            "train was called while a worker process imports your script, which would train again; "
            'put the call below: if __name__ == "__main__":'
        )
        raise TrainingError(msg)
    check_cache(cache)
    check_callbacks(callbacks)
    file = Path(spec) if isinstance(spec, (str, Path)) else None
    default = Path("runs") / file.stem if file else None
    spec = run_spec(spec)
    folder, address = run_folder(output, spec.output, default, file=file)
    if isinstance(spec.model.loss, Distillation):
        msg = (
            "model.loss: distillation needs a teacher's embeddings of each batch, which a run does "
            "not have; use it in a training loop of your own"
        )
        raise TrainingError(msg)
    with (
        launched_ranks(spec.training.device) as (ranks, device),
        locked_run_folder(folder) if ranks.is_main else nullcontext(),
        RngState(),  # the caller's generators, of all devices, stay as they were
    ):
        unmeasured: list[str] = []
        with (
            said_once(),
            noted_omissions(),  # how many rows may be bad is said by the spec
            sent_to(address, folder, spec.training.keep, ranks, unmeasured) as remote,
        ):
            about = folder, remote, ranks, device, unmeasured
            model = _train(spec, *about, resume=resume, cache=cache, callbacks=callbacks)
        for line in unmeasured:
            note_omission(line)
        return model


def _train(
    spec: RunSpec,
    folder: Path,
    remote: RemoteOutput,
    ranks: Ranks,
    device: torch.device,
    unmeasured: list[str],
    *,
    resume: bool,
    cache: FeatureCache | None,
    callbacks: Sequence[Callback],
) -> ContrastiveModel:
    settings = spec.training
    trackers = usable_trackers(spec) if ranks.is_main else []
    ranks.check_same(
        "the ranks were asked for different runs",
        shared_fields(spec) | {"resume": resume},
        "start all of them with the same spec and options",
    )
    # a download, or a damaged checkpoint, is dealt with once
    with ranks.main_first(), remote.brought(resume=resume):
        previous, spec = start_or_resume(folder, spec, resume=resume)
        samples, held_out = _samples(spec)
    cache = None if settings.cache == "off" else cache or FeatureCache()
    model, optimizer, progress = _at_start(spec, previous, device, ranks)
    start = progress.step
    with work_shared_by(ranks):  # each encodes its share of what is frozen
        check_same_rows(ranks, samples, held_out, [*model.towers])
        batches = TrainingBatches(samples, model, settings, ranks, cache=cache)
        _remember_samples(model, batches, held_out, spec)
        check_room(folder, spec, model, optimizer, batches)
    check_same_start(ranks, start, batches, model.seen)
    total = settings.epochs * batches.steps_per_epoch
    say_summary(spec, model, batches, ranks, start=start, total=total)
    dtype, scale = autocast_dtype(settings, device), loss_scale_of(settings, device, progress)
    recorder = Recorder(
        folder,
        spec,
        model,
        optimizer,
        batches,
        held_out,
        cache,
        ranks,
        unmeasured,
        scale,
        changed=remote.changed,
    )
    callbacks = callbacks if ranks.is_main else ()
    tracking = Tracking(spec, folder, model, trackers, callbacks, step=start)

    if previous:  # last, since whatever came before may have drawn numbers
        restore_random(previous, model, batches)
    model.train()
    with (
        tracking,
        _log(folder, ranks, progress) as log,
        bar("training", total, done=start) as advance,
        noted_signals() as pending_signals,
        recorder.background,
        global_batch_norm(model, ranks.size),
        compiled_towers(model, settings, batches.live),
        finished_steps_saved(
            model,
            ranks,
            start,
            save=lambda done: recorder.save_once(step_log, done),
            advise=lambda batch: advice(
                model, batch, settings, rows=len(batch.ids), dtype=dtype, ranks=ranks.size
            ),
        ) as steps,
    ):
        log.listener = tracking.given
        given = DataWait(copied_to(device, batches.iterate(start, total), settings))
        gradients = StepGradients(model, settings, ranks, dtype=dtype, loss_scale=scale)
        step_log = StepLog(
            log,
            model,
            optimizer,
            settings,
            ranks,
            scale,
            steps_per_epoch=batches.steps_per_epoch,
            advance=lambda n, note: advance(n, f"{note}  data {100 * given.share:.0f} %"),
        )
        recorder.begin(log, progress)
        weights = [*model.parameters()]  # a walk through all modules
        parts = zip(*[iter(given)] * settings.accumulate, strict=True)  # so many batches a step
        for step, part in zip(range(start, total), parts, strict=True):
            steps.begin(part[-1])
            lr = set_rates(optimizer, _schedule(step, total, settings.warmup))
            ranks.seed_dropout(settings.seed, step)
            loss, metrics, sent = gradients.compute(part, pending_signals)
            norm = clip_gradients_([p for p in weights if p.requires_grad], settings.clip_norm)
            with steps.update():
                if step_log.is_applied(loss, norm):
                    optimizer.step()
                model.loss.clamp_()  # the logit scale back into its bounds

            done = step + 1
            step_log.add(
                done, part, loss=loss, lr=lr, gradient_norm=norm, metrics=metrics, sent=sent
            )
            if recorder.is_due(done):  # what is saved is known to be finite
                step_log.settle()
            stop = step_log.ending(pending_signals)
            recorder.after_step(step_log, done, stop=bool(stop))
            if stop:
                raise Interrupted(stop, done, total)

    return _finished(folder, remote, spec, model.eval(), ranks, recorder.best)


def _at_start(
    spec: RunSpec, previous: SavedFolder | None, device: torch.device, ranks: Ranks
) -> tuple[ContrastiveModel, torch.optim.AdamW, Progress]:
    """Return the model and the optimizer before the first step, or as a checkpoint has them."""
    settings = spec.training
    torch.manual_seed(settings.seed)
    model = built_for_training(spec, device, ranks=ranks.size)
    if previous:
        restore_weights(model, previous)
    # initial weights may differ between kinds of GPU
    ranks.broadcast_([*model.parameters(), *(x for x in model.buffers() if x.is_floating_point())])
    check_loss_of_ranks(model, ranks)
    shard_towers_(model, settings, ranks, autocast_dtype(settings, device))
    optimizer = optimizer_of(model, settings)
    return (
        model,
        optimizer,
        restore_optimizer(previous, model, optimizer) if previous else Progress(),
    )


def _finished(
    folder: Path,
    remote: RemoteOutput,
    spec: RunSpec,
    model: ContrastiveModel,
    ranks: Ranks,
    best: Mapping[str, float],
) -> ContrastiveModel:
    if best:
        place = remote.place(checkpoint_folder(folder, int(best["step"])))
        say(f"best {spec.training.keep.best}: {best['value']:.1%}, of {place}")
    sharded, files = has_shards(model), run_files(spec, model, folder / "model")
    weights = {name: whole(x) for name, x in files["model.safetensors"].items()}
    if ranks.is_main:
        write_folder(folder / "model", files | {"model.safetensors": weights})
    ranks.barrier()  # no rank returns before the model can be loaded
    if sharded:
        return load_model(folder / "model", trusted=True).to(model.device)
    lay_out_convolutions_(model, torch.contiguous_format)
    return model


def _samples(spec: RunSpec) -> tuple[Samples, Samples | None]:
    """Return what is trained on, and what is measured after each epoch."""
    held_out = spec.evaluation.split
    read = split_reader(spec.data)
    try:
        samples = read(spec.training.split, purpose="training")
    except UnknownSplit as error:
        msg = f"{error}; choose one by training.split"
        raise DataError(msg) from error
    try:
        return samples, read(held_out) if held_out else None
    except DataError as error:
        raise DataError(f"{error}; {UNMEASURED}") from error


def _remember_samples(
    model: ContrastiveModel, batches: TrainingBatches, held_out: Samples | None, spec: RunSpec
) -> None:
    """Note in the model what it is trained on, and refuse to measure it on that or on nothing."""
    keys = content_keys(batches.rows, list(model.towers))
    model.seen = seen_samples(keys)
    for line in copies_in(batches.rows, keys):
        say(line)
    if held_out is not None:
        split, rows = str(spec.evaluation.split), rows_of(held_out)
        try:
            rows = held_out_rows(model.seen, rows, split, spec.evaluation.shared)
        except DataError as error:
            raise DataError(f"{error}; {UNMEASURED}") from error
        check_images(model, held_out, rows, split, workers=worker_count(spec.training.workers))


def _schedule(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine to 0."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _log(folder: Path, ranks: Ranks, progress: Progress) -> Log:
    """Open the log as it was at a checkpoint; the main rank alone has one."""
    return Log(
        folder / "log.jsonl" if ranks.is_main else None,
        keep_until=progress.step,
        measured=progress.measured,
        expected=progress.log_lines,
    )
