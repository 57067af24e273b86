"""What a checkpoint holds of a run, and writing it.

It is a saved model with the optimizer's moments, dropout's generator and the number of steps. Order
and augmentation of samples follow from the seed, and need no state.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.config.provenance import origins
from contrastive.distributed.shared_work import shared_work, work_shared_by
from contrastive.errors import TrainingError, WeightsError
from contrastive.model.local_paths import data_paths, from_folder
from contrastive.model.run_checkpoints import checkpoint_folder, drop_superseded
from contrastive.model.saved_folder import FORMAT, Content, is_whole, open_folder, write_folder
from contrastive.model.sharded_files import write_shards
from contrastive.nn.sharded_tensors import has_shards, is_sharded, own_part
from contrastive.training.finite import check_saved
from contrastive.training.optimizer import takes_one_pass
from contrastive.training.part_mistakes import check_same_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from contrastive.distributed.shared_work import SharedWork
    from contrastive.model.model import ContrastiveModel
    from contrastive.model.saved_folder import SavedFolder
    from contrastive.spec import RunSpec
    from contrastive.training.background import BackgroundJobs
    from contrastive.training.batches import TrainingBatches

SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Progress:
    """How far a run is, as ``state.json`` says."""

    step: int = 0
    """Steps that are done."""
    log_lines: int | None = None
    """Lines of the log then; release 0.1 did not count them."""
    measured: bool = True
    """Whether nothing is left to do of an epoch that ended there."""
    gradients: dict[str, float] = field(default_factory=dict[str, float])
    """Norms for the doctor, which a resumed run cannot compute any more."""
    loss_scale: dict[str, float] = field(default_factory=dict[str, float])
    """Of a run in fp16."""
    best: dict[str, float] = field(default_factory=dict[str, float])
    """``step`` and ``value`` of the best evaluation, by ``training.keep.best``."""


def run_files(spec: RunSpec, model: ContrastiveModel, place: Path) -> dict[str, Content]:
    """Return what the folder of a trained model consists of, file by file; it goes to ``place``."""
    files = model.state_files(place)
    parts = cast("dict[str, Any]", files["parts.json"])
    components = parts["components"]
    for kind, found in (origins(spec.data) | origins(spec.training)).items():
        components = components | {kind: components.get(kind, {}) | found}
    run = {"format": FORMAT} | spec.model_dump(mode="json")
    paths = data_paths(spec.data)
    about = {"components": components, "data": paths, "data_beside": from_folder(place, paths)}
    return files | {"parts.json": parts | about, "run.json": run}


def save_step(
    background: BackgroundJobs | None,
    folder: Path,
    spec: RunSpec,
    model: ContrastiveModel,
    optimizer: torch.optim.AdamW,
    batches: TrainingBatches,
    progress: Progress,
) -> None:
    """Write a checkpoint, then drop those that are no longer needed.

    In the background it is written from a copy in the CPU's memory; without, from the weights. Of a
    sharded model all ranks write their shards, before the next step.

    Raises:
        TrainingError: it is not finite, or cannot be read back.
        WeightsError: it cannot be written.
        FailedRank: another rank cannot write its shards.
    """
    check_same_weights(model, optimizer)
    ranks, fused = batches.ranks, takes_one_pass(optimizer)
    place = checkpoint_folder(folder, progress.step)
    about = spec, model, optimizer.state, batches, progress, place
    if has_shards(model):
        with work_shared_by(ranks):
            files = step_files(*about, fused=fused)
            write_files(place, files, shared_work())
            if ranks.is_main:
                _verify(folder, spec, progress)
        return
    files = step_files(*about, fused=fused)
    if background:
        background.submit(partial(_write_and_verify, folder, _copied(files), spec, progress))
    else:
        _write_and_verify(folder, files, spec, progress)


def write_files(place: Path, files: Mapping[str, Content], work: SharedWork) -> None:
    """Write a folder; of a sharded model each rank writes its shards, the main one the rest.

    Raises:
        WeightsError: this rank cannot write its part.
        FailedRank: another cannot.
    """
    shards = _each_alone(
        {name: x for each in _tensors(files) for name, x in each.items() if is_sharded(x)}
    )
    if not shards:
        write_folder(place, files)
        return
    rest = {
        name: {key: x for key, x in content.items() if not is_sharded(x)}
        if name.endswith(SAFETENSORS)
        else content
        for name, content in files.items()
    }
    if work.ranks.is_main:
        write_folder(place, rest, others=partial(write_shards, work, shards))
        return
    try:
        write_shards(work, shards)
    except OSError as error:
        msg = f"{place}: cannot be written: {error.strerror or error}"
        raise WeightsError(msg) from error


def _each_alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which none shares memory with another, as tied weights do."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, x in tensors.items():
        place = own_part(x).data_ptr()  # 0 of an empty one
        found[name] = x.detach().clone() if place in seen else x
        seen |= {place} - {0}
    return found


def _tensors(files: Mapping[str, Content]) -> list[Content]:
    return [content for name, content in files.items() if name.endswith(SAFETENSORS)]


def _copied(files: Mapping[str, Content]) -> dict[str, Content]:
    """Return the files of a checkpoint with a copy of each tensor, which no step changes."""
    return {
        name: {key: x.detach().to("cpu", copy=True) for key, x in content.items()}
        if name.endswith(SAFETENSORS)
        else content
        for name, content in files.items()
    }


def _write_and_verify(
    folder: Path, files: Mapping[str, Content], spec: RunSpec, progress: Progress
) -> None:
    write_folder(checkpoint_folder(folder, progress.step), files)
    _verify(folder, spec, progress)


def _verify(folder: Path, spec: RunSpec, progress: Progress) -> None:
    """Read a new checkpoint, then drop those that it replaces."""
    step = checkpoint_folder(folder, progress.step)
    if not is_whole(step):  # a failing disk must not cost the last good one
        msg = f"{step}: cannot be read back as it was written; is the disk failing?"
        raise TrainingError(msg)
    drop_older(folder, spec, progress)


def drop_older(folder: Path, spec: RunSpec, progress: Progress) -> None:
    """Remove the checkpoints that one of this progress replaces, but for those to keep."""
    last, best = spec.training.keep.last, progress.best.get("step")
    drop_superseded(folder, progress.step, last=last, best=best)


def step_files(
    spec: RunSpec,
    model: ContrastiveModel,
    optimizer_state: Mapping[Tensor, Mapping[str, Tensor]],
    batches: TrainingBatches,
    progress: Progress,
    place: Path,
    *,
    fused: bool,
) -> dict[str, Content]:
    """Return what a checkpoint consists of; ``fused`` says how the optimizer updates weights.

    It goes to ``place``.

    Raises:
        TrainingError: a number is not finite; names its tensor.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    moments = {
        f"{names[p]}|{key}": value
        for p, state in optimizer_state.items()
        for key, value in state.items()
    }
    saved = [*model.state_dict().items(), *moments.items()]
    check_saved(progress.step, ((name, own_part(x)) for name, x in saved))
    random = {"cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(model.device)
    elif model.device.type == "mps":
        random["mps"] = torch.mps.get_rng_state()
    state = {
        "rows": batches.fingerprint,
        "torch": str(torch.__version__),
        "device": str(model.device),
        "ranks": batches.ranks.size,
        "fused": fused,
    }
    return run_files(spec, model, place) | {
        "optimizer.safetensors": moments,
        "random.safetensors": random,
        "state.json": state | asdict(progress),
    }


def save_progress(background: BackgroundJobs, folder: Path, progress: Progress) -> None:
    """Note in the checkpoint of a step that its epoch is measured; the other files stay."""
    background.submit(partial(_write_progress, checkpoint_folder(folder, progress.step), progress))


def _write_progress(step: Path, progress: Progress) -> None:
    saved = open_folder(step)
    state = saved.json("state.json") | asdict(progress)
    write_folder(step, {"state.json": state}, keep=saved.files - {"state.json"})


def progress_of(saved: SavedFolder) -> Progress:
    """Return how far the run of a checkpoint is."""
    state: dict[str, Any] = saved.json("state.json")
    return Progress(**{name: state[name] for name in Progress.__annotations__ if name in state})
