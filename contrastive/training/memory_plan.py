"""What a spec's training step takes before it is run, and what would take less."""

from __future__ import annotations

import gc
import mmap
from contextlib import suppress
from dataclasses import replace
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from contrastive.data.loading import prepare
from contrastive.data.samples import check_modalities, rows_of
from contrastive.datasets.built_split import build_split
from contrastive.errors import DataError, SpecError, TrainingError
from contrastive.nn.device import pick_device
from contrastive.nn.memory import out_of_memory
from contrastive.nn.rng import RngState
from contrastive.nn.sharded_tensors import has_shards
from contrastive.training.batches import Batch
from contrastive.training.built import DTYPES, autocast_dtype, built_for_training, precision_name
from contrastive.training.gradient_cache import check_towers
from contrastive.training.memory import FEW, MORE, StepMemory, step_memory
from contrastive.training.resume import CHANGEABLE_ON_RESUME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrastive.data.samples import Sample
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec, TrainingSpec

LONGEST = 4 * MORE  # rows that are tried, of which some may be bad
IN_PIECES = 1.15
"""What glibc's malloc has of the system, as a multiple of what tensors need: it keeps freed pieces
below 32 MB. By the runs in docs/reliability.md."""
WORTHWHILE = 0.95  # share of the memory now, below which a setting is named


def spec_memory(spec: RunSpec) -> tuple[StepMemory, str]:
    """Estimate the memory of a run's training step, on one rank that has the whole batch.

    The model is built, with its weights, and takes a few of the run's longest rows.

    Returns:
        The estimate, and a line on where and how it was made.

    Raises:
        SpecError: the model cannot be built.
        DataError: the data cannot be read.

    Example:
        >>> run = RunSpec(model=SPEC, data={"type": "image-folder", "folder": "photos"})
        >>> memory, how = spec_memory(run)
        >>> memory.optimizer == 2 * memory.gradients
        True
    """
    settings = spec.training
    device, where = _device(settings)
    with RngState():
        model = built_for_training(spec, device).train()
        rows = rows_of(build_split(spec.data, settings.split, purpose="training"))
        check_modalities(rows, model.towers)
        # a GPU that is not here is taken for one of today
        dtype = torch.bfloat16 if where and settings.precision == "auto" else None
        dtype = dtype or autocast_dtype(settings, device)
        batch = _few(rows, model, settings)
        size = min(settings.batch_size, len(rows))
        found = step_memory(model, batch, settings, rows=size, dtype=dtype)
        if settings.device in ("auto", "cpu") and device.type == "cpu":
            found = replace(found, process=_of_process(found))
    return found, f"measured with {MORE} rows in {precision_name(dtype)} on {device}{where}"


def _of_process(step: StepMemory) -> int | None:
    """Return about what a run's process takes at its peak on a CPU; None if this one is unknown.

    This process has run what the run will: its libraries, kernels and weights are in memory.
    """
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not on Linux
        return None
    libraries = max(0, pages * mmap.PAGESIZE - step.weights)
    checkpoint = step.gradients + step.optimizer  # copied, to be written while the steps go on
    return libraries + checkpoint + int(step.peak * IN_PIECES)


def _device(settings: TrainingSpec) -> tuple[torch.device, str]:
    """Return the run's device; the CPU, and a remark, for a GPU that is not here."""
    try:
        return pick_device(settings.device), ""
    except SpecError:
        if not settings.device.startswith("cuda"):
            raise
        return torch.device("cpu"), f", since {settings.device} is not here"


def _few(rows: Sequence[Sample], model: ContrastiveModel, settings: TrainingSpec) -> Batch:
    """Return a few rows with the longest texts, as batches of them are padded."""
    tried = nlargest(LONGEST, rows, key=_length)
    good, problems = list(range(len(tried))), dict[int, str]()
    live = {m: tower for m in model.towers if not _cached(tower := model.tower(m), settings)}
    for modality, tower in live.items():
        samples = [tried[i][modality] for i in good]
        problems |= (found := prepare(tower.encoder.preprocess, samples, good)).problems
        good = found.indices
    if not good:
        msg = f"none of {len(tried)} rows can be used: {next(iter(problems.values()), 'no rows')}"
        raise DataError(msg)
    good = good[:MORE]
    batch = Batch(torch.arange(len(good)))
    for modality in model.towers:
        encoder, views = model.tower(modality).encoder, range(model.spec.views(modality))
        if modality in live:
            take = encoder.augment or encoder.preprocess
            samples = [tried[i][modality] for i in good]
            batch.inputs[modality] = [take(samples) for _ in views]
        else:
            batch.features[modality] = torch.zeros(len(good), encoder.out_dim)
    return batch


def _cached(tower: Any, settings: TrainingSpec) -> bool:
    return settings.cache != "off" and tower.encoder_frozen and tower.encoder.augment is None


def _length(row: Sample) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def advice(
    model: ContrastiveModel,
    batch: Batch,
    settings: TrainingSpec,
    *,
    rows: int,
    dtype: torch.dtype | None,
    ranks: int = 1,
) -> str:
    """Return in one line what a step takes, and which settings take less.

    The model is not used again: activation checkpointing stays on. A sharded one is not measured,
    since its passes wait for all ranks.
    """
    if has_shards(model):
        return f"training.micro_batch={max(1, (settings.micro_batch or rows) // 2)} takes less"

    def take(settings: TrainingSpec, rows: int = rows) -> StepMemory:
        narrow = dtype or DTYPES.get(settings.precision)
        return step_memory(model, batch, settings, rows=rows, dtype=narrow, ranks=ranks)

    try:
        now = take(settings)
        peaks = {f"training.{name}": take(other).peak for name, other in _others(model, settings)}
        if rows > FEW:
            peaks[f"training.batch_size={rows * ranks // 2}"] = take(settings, rows // 2).peak
    except Exception as error:
        if out_of_memory(error):  # not even for a few rows
            return "a few rows take too much as well; choose a smaller model or another device"
        raise
    parts = ", ".join(f"{what} {gib(amount)}" for what, amount, _ in now.parts() if amount)
    told = f"a step of {rows} rows takes about {gib(now.peak)} ({parts})"
    less = [
        (name.startswith(CHANGEABLE_ON_RESUME), f"{name} ({gib(peak)})")
        for name, peak in sorted(peaks.items(), key=lambda each: each[1])
        if peak < WORTHWHILE * now.peak
    ]
    if not less:
        return f"{told}; choose a smaller model or another device"
    same = ", ".join(line for resumable, line in less if resumable)
    anew = ", ".join(line for resumable, line in less if not resumable)
    ways = [f"the same run with {same}"] * bool(same) + [f"another run with {anew}"] * bool(anew)
    return f"{told}; by estimate less: {', or '.join(ways)}"


def _others(model: ContrastiveModel, settings: TrainingSpec) -> Iterator[tuple[str, TrainingSpec]]:
    """Yield settings that need less memory, and how they are written."""
    auto = settings.model_copy(update={"precision": "auto"})
    narrow = precision_name(autocast_dtype(auto, model.device) or torch.bfloat16)
    if settings.precision not in ("bf16", "fp16"):
        yield f"precision={narrow}", settings.model_copy(update={"precision": narrow})
    micro = max(1, (settings.micro_batch or settings.batch_size) // 4)
    with suppress(TrainingError):
        check_towers(model, rows=micro, batch_norm=settings.batch_norm)
        yield f"micro_batch={micro}", settings.model_copy(update={"micro_batch": micro})
    towers = [m for m in model.towers if m not in settings.checkpoint_activations]
    layered = [m for m in towers if _checkpoints(model, m)]
    if layered:
        names = ",".join([*settings.checkpoint_activations, *layered])
        yield f"checkpoint_activations=[{names}]", settings


def _checkpoints(model: ContrastiveModel, modality: str) -> bool:
    """Turn on activation checkpointing in a tower that trains, if it has layers."""
    tower = model.tower(modality)
    if tower.encoder_frozen:
        return False
    with suppress(SpecError):
        tower.encoder.checkpoint_activations()
        return True
    return False


def gib(amount: int) -> str:
    """Return bytes as people read them."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if amount >= size:
            return f"{amount / size:.1f} {unit}"
    return f"{amount / 2**10:.1f} KiB"
