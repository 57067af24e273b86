"""Training: one loop in plain torch that can be read aloud.

Randomness is a function, not a stream: the order of an epoch follows from (seed, epoch), an
augmentation from (seed, epoch, sample). The only state is dropout's generator, and a checkpoint
holds it; so a resumed run is the run that was never interrupted, to the last bit.
"""

from __future__ import annotations

import math
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from contrastive import checkpoint
from contrastive.cache import FeatureCache
from contrastive.errors import ContrastiveError
from contrastive.evaluate import Report, check_held_out, evaluate, seen_samples
from contrastive.feed import Feed
from contrastive.log import Log
from contrastive.model import ContrastiveModel, build_model, pick_device, restore_weights
from contrastive.progress import bar, say
from contrastive.stream import rows_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from contrastive.datasets import Samples
    from contrastive.feed import Batch
    from contrastive.spec import RunSpec, TrainingSpec

FREE = (
    "output",
    "evaluation.",
    *(f"training.{name}" for name in ("workers", "device", "cache", "checkpoint_every")),
)
"""Parts of a spec that a resumed run may change: they do not change what is learned."""

KEEP = 2  # checkpoints: the newest, and the one before it in case that one is damaged


class TrainingError(ContrastiveError):
    """Training cannot go on, or cannot begin."""


class Interrupted(ContrastiveError):  # noqa: N818
    """A signal ended the run at a step boundary; everything until then is saved."""

    def __init__(self, number: int, message: str) -> None:
        """Remember the signal's number: the exit code is 128 plus it."""
        super().__init__(message)
        self.exit_code = 128 + number


def train(
    spec: RunSpec,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    cache: FeatureCache | None = None,
) -> ContrastiveModel:
    """Train a model and save it.

    Args:
        spec: the model, the data and the training.
        output: folder of the run, instead of ``spec.output``: ``log.jsonl``, ``checkpoints/`` and
            at the end ``model/``.
        resume: go on from the newest whole checkpoint in that folder.
        cache: keeps the features of frozen encoders; the user's own if None.

    Returns:
        The trained model, in eval mode, on the device that it was trained on.

    Raises:
        DataError: the data cannot be read, or the evaluation split shares images with training.
        TrainingError: the folder holds a run already, there is nothing to resume, or the loss is
            no longer finite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    folder = _folder_of(spec, output)
    previous = _start_or_resume(folder, spec, resume=resume)
    settings = spec.training
    device = pick_device(settings.device)
    samples = spec.data.build(settings.split, purpose="training")
    held_out = spec.data.build(spec.evaluation.split) if spec.evaluation.split else None
    torch.manual_seed(settings.seed)
    model = build_model(spec.model).to(device)
    cache = None if settings.cache == "off" else cache or FeatureCache()

    folder.mkdir(parents=True, exist_ok=True)  # before hours of encoding rather than after them
    optimizer = _optimizer(model, settings)
    start = _restore(previous, model, optimizer) if previous else 0
    feed = Feed(samples, model, settings, cache=cache)
    model.seen = seen_samples(feed.rows, list(model.towers))
    if held_out is not None:
        check_held_out(model, rows_of(held_out), str(spec.evaluation.split))
    total = settings.epochs * feed.steps_per_epoch
    _introduce(spec, model, feed, start=start, total=total)

    if previous:
        _restore_random(previous, model)
    model.train()
    with (
        Log(folder / "log.jsonl", keep_until=start) as log,
        bar("training", total, done=start) as advance,
        _signals() as stop,
    ):
        for step, batch in zip(range(start, total), feed.batches(start, total), strict=True):
            lr = settings.lr * _schedule(step, total, settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss, figures = _step(model, batch, settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(_trained(model), settings.clip_norm or math.inf)
            _insist_on_finite(step, lr, model, loss=loss, gradient=norm)
            optimizer.step()
            model.loss.clamp_()
            done = step + 1
            epoch = done / feed.steps_per_epoch
            log.step(done, epoch, loss=loss, lr=lr, grad_norm=norm, **figures)
            advance(1, f"loss {loss.item():.3f}  scale {model.scale:.1f}")

            end_of_epoch = done % feed.steps_per_epoch == 0
            if end_of_epoch and held_out is not None:
                report = _measure(model, held_out, spec, cache)
                log.evaluation(done, epoch, report)
                say(f"epoch {done // feed.steps_per_epoch}: {summary(report)}")
            due = settings.checkpoint_every and done % settings.checkpoint_every == 0
            if end_of_epoch or due or stop:
                _save(folder, spec, model, optimizer, done)
            if stop:
                msg = f"interrupted at step {done} of {total}; saved; go on with --resume"
                raise Interrupted(stop[0], msg)

    model.eval()
    checkpoint.write_folder(folder / "model", _files(spec, model))
    return model


def summary(report: Report) -> str:
    """Return the figures that matter in one line, in per cent."""
    parts = [
        f"{name.replace('_', ' ')} "
        + " ".join(f"R@{k} {figure.value:.1%}" for k, figure in direction.recall.items())
        for name, direction in report.retrieval.items()
    ]
    if report.classification:
        parts.append(f"zero-shot top-1 {report.classification.accuracy.value:.1%}")
    return "; ".join(parts)


def _step(
    model: ContrastiveModel, batch: Batch, settings: TrainingSpec
) -> tuple[Tensor, dict[str, Tensor]]:
    """Embed a batch and compare its modalities, pair by pair."""
    device = model.device
    half = settings.precision == "bf16" or (
        settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        embeddings = {
            modality: model.tower(modality).project(features.to(device))
            for modality, features in batch.features.items()
        } | {
            modality: model.tower(modality)(**{k: v.to(device) for k, v in inputs.items()})
            for modality, inputs in batch.inputs.items()
        }
    ids = batch.ids.to(device)
    ordered = [embeddings[modality] for modality in model.towers]
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
    results = [model.loss(a, b, ids, ids) for a, b in pairs]
    loss = torch.stack([loss for loss, _ in results]).mean()
    return loss, results[0][1]


def _schedule(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine to 0."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _optimizer(model: ContrastiveModel, settings: TrainingSpec) -> torch.optim.AdamW:
    """AdamW; only matrices decay: not biases, norms, the temperature or the bias of the loss."""
    if not (trained := _trained(model)):
        msg = "everything is frozen, the temperature too: there is nothing to train"
        raise TrainingError(msg)
    matrices = [p for p in trained if p.ndim >= 2]
    rest = [p for p in trained if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-6)


def _trained(model: ContrastiveModel) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _insist_on_finite(step: int, lr: float, model: ContrastiveModel, **values: Tensor) -> None:
    for name, value in values.items():
        if not torch.isfinite(value):
            msg = (
                f"the {name} is {value.item()} at step {step + 1} (learning rate {lr:.2g}, logit "
                f"scale {model.scale:.4g}); nothing of it is saved; try a lower training.lr"
            )
            raise TrainingError(msg)


def _measure(
    model: ContrastiveModel, samples: Samples, spec: RunSpec, cache: FeatureCache | None
) -> Report:
    return evaluate(
        model,
        samples,
        split=str(spec.evaluation.split),
        templates=spec.evaluation.templates,
        cache=cache,
        workers=spec.training.workers,
    )


def _introduce(
    spec: RunSpec, model: ContrastiveModel, feed: Feed, *, start: int, total: int
) -> None:
    """Say what is about to happen, with one pair to look at before hours are spent."""
    trained = sum(p.numel() for p in _trained(model))
    frozen = sum(p.numel() for p in model.parameters()) - trained
    say(f"{trained:,} parameters are trained, {frozen:,} are frozen, on {model.device}")
    how = ", ".join(f"{m}: {'cached' if m in feed.tables else 'live'}" for m in model.towers)
    say(f"{len(feed)} pairs, {feed.steps_per_epoch} steps an epoch; features {how}")
    for modality, tower in spec.model.towers.items():
        if tower.frozen != "none" and model.tower(modality).encoder.augment is not None:
            say(f"{modality}: augmented, so its features are computed anew in each epoch")
    if start:
        say(f"resumed at step {start} of {total}")
    row = feed.example()
    shown = {m: "<bytes>" if isinstance(row[m], bytes) else str(row[m]) for m in model.towers}
    pair = "  |  ".join(f"{modality}: {value[:120]}" for modality, value in shown.items())
    say(f"one pair: {pair}  |  id: {row['id']}  ({row.get('source', '')})")


def _folder_of(spec: RunSpec, output: str | Path | None) -> Path:
    folder = output or spec.output
    if folder is None:
        msg = "a run needs a folder: give output"
        raise TrainingError(msg)
    return Path(folder)


def _start_or_resume(folder: Path, spec: RunSpec, *, resume: bool) -> Path | None:
    """Return the checkpoint to go on from, if that is what is asked."""
    steps = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    if not resume:
        if steps:
            msg = f"{folder}: holds a run already; add --resume to go on, or choose --output"
            raise TrainingError(msg)
        return None
    for step in steps:
        if checkpoint.is_whole(step):
            _insist_on_same_run(step, spec)
            return step
        say(f"{step}: damaged, trying the one before it")
    msg = f"{folder}: nothing to resume here"
    raise TrainingError(msg)


def _insist_on_same_run(step: Path, spec: RunSpec) -> None:
    """Refuse to go on with a spec under which the run would have been another one."""
    saved = checkpoint.plain(checkpoint.read_folder(step), "run.json", step)
    before, now = _flat(saved), _flat(spec.model_dump(mode="json"))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not name.startswith(FREE):
            msg = (
                f"{step}: was trained with {name}: {before.get(name)}, the spec says "
                f"{now.get(name)}; give {name}={before.get(name)}, or start anew in another folder"
            )
            raise TrainingError(msg)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return every leaf of nested mappings by its dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    fields = cast("dict[str, Any]", value)
    return {
        leaf: v
        for key, inner in fields.items()
        for leaf, v in _flat(inner, f"{name}.{key}" if name else key).items()
    }


def _files(spec: RunSpec, model: ContrastiveModel) -> dict[str, checkpoint.Content]:
    return model.state_files() | {"run.json": spec.model_dump(mode="json")}


def _save(
    folder: Path,
    spec: RunSpec,
    model: ContrastiveModel,
    optimizer: torch.optim.AdamW,
    done: int,
) -> None:
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    moments = {
        f"{names[p]}|{key}": value
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(model.device)
    state = {"step": done, "torch": str(torch.__version__), "device": str(model.device)}
    files = _files(spec, model) | {
        "optimizer.safetensors": moments,
        "random.safetensors": random,
        "state.json": state,
    }
    checkpoints = folder / "checkpoints"
    checkpoint.write_folder(checkpoints / f"step-{done:08d}", files)
    for old in sorted(checkpoints.glob("step-*"))[:-KEEP]:
        checkpoint.remove_folder(old)


def _restore(step: Path, model: ContrastiveModel, optimizer: torch.optim.AdamW) -> int:
    """Bring back weights and moments; return the steps that were done."""
    files = checkpoint.read_folder(step)
    restore_weights(model, files, step)
    parameters = dict(model.named_parameters())
    for key, value in checkpoint.tensors(files, "optimizer.safetensors", step).items():
        name, _, kind = key.rpartition("|")
        # AdamW counts its steps on the CPU, whatever the device
        moment = value if kind == "step" else value.to(model.device)
        optimizer.state[parameters[name]][kind] = moment
    state: dict[str, Any] = checkpoint.plain(files, "state.json", step)
    if state["torch"] != torch.__version__ or state["device"] != str(model.device):
        say(f"saved by torch {state['torch']} on {state['device']}: not the same to the last bit")
    return int(state["step"])


def _restore_random(step: Path, model: ContrastiveModel) -> None:
    """Bring back dropout's generator."""
    random = checkpoint.tensors(checkpoint.read_folder(step), "random.safetensors", step)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and model.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], model.device)


@contextmanager
def _signals() -> Generator[list[int]]:
    """Within the block, note SIGINT and SIGTERM; a second one acts at once."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        noted.append(number)
        signal.signal(
            number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
        )
        say("stopping after this step; once more to stop at once")

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
