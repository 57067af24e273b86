"""Going on with a run: what a checkpoint holds of it, and whether the spec is still the same.

A checkpoint is a saved model with the optimizer's moments, dropout's generator and the number of
steps. The order of samples and augmentations follow from the seed, so they need no state.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.config.provenance import origins
from contrastive.console import say
from contrastive.errors import ContrastiveError, TrainingError, WeightsError
from contrastive.model.checkpoint import (
    FORMAT,
    Content,
    SavedFolder,
    is_whole,
    open_folder,
    remove_folder,
    write_folder,
)
from contrastive.model.loading import restore_weights, stored_spec

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches

CHANGEABLE_ON_RESUME = (
    "output",
    "evaluation.",
    "training.workers",
    "training.device",
    "training.checkpoint_every",
    "data.folder",  # whether the rows are still the same is seen from the rows
    "data.repo",
)
"""Parts of a spec that a resumed run may change: they do not change what is learned."""

KEEP = 2  # checkpoints: the newest, and the one before it in case that one is damaged


def start_or_resume(folder: Path, spec: RunSpec, *, resume: bool) -> SavedFolder | None:
    """Return the checkpoint to go on from, if that is what is asked.

    Raises:
        TrainingError: the folder holds a run and ``resume`` is not asked for, or it is and there is
            no whole checkpoint, or it is of a run that another spec describes.
    """
    steps = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    if not resume:
        if steps:
            msg = (
                f"{folder}: holds a run already; go on with resume=True (--resume), or choose "
                "another output"
            )
            raise TrainingError(msg)
        return None
    for step in steps:
        if is_whole(step):
            saved = open_folder(step)
            _check_same_run(saved, spec)
            return saved
        say(f"{step}: damaged, taking the one before it")
        remove_folder(step)
    msg = f"{folder}: nothing to resume here"
    raise TrainingError(msg)


def _check_same_run(saved: SavedFolder, spec: RunSpec) -> None:
    """Refuse to go on with a spec under which the run would have been another one."""
    data = {name: value for name, value in saved.json("run.json").items() if name != "format"}
    with suppress(ContrastiveError):  # fields that an older version did not know get their defaults
        data = stored_spec(type(spec), saved, "run.json").model_dump(mode="json")
    before, now = _flat(data), _flat(spec.model_dump(mode="json"))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not name.startswith(CHANGEABLE_ON_RESUME):
            msg = (
                f"{saved.path}: was trained with {name}: {before.get(name)}, the spec says "
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


def run_files(spec: RunSpec, model: ContrastiveModel) -> dict[str, Content]:
    """Return what the folder of a trained model consists of, file by file."""
    files = model.state_files()
    parts = cast("dict[str, Any]", files["parts.json"])
    components = parts["components"]
    for kind, found in origins(spec.data).items():
        components = components | {kind: components.get(kind, {}) | found}
    run = {"format": FORMAT} | spec.model_dump(mode="json")
    return files | {"parts.json": parts | {"components": components}, "run.json": run}


def save_step(
    folder: Path,
    spec: RunSpec,
    model: ContrastiveModel,
    optimizer: torch.optim.AdamW,
    batches: TrainingBatches,
    done: int,
) -> None:
    """Write the checkpoint of ``done`` steps, then drop those that are no longer needed."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    moments = {
        f"{names[p]}|{key}": value
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(model.device)
    state = {
        "step": done,
        "rows": batches.fingerprint,
        "torch": str(torch.__version__),
        "device": str(model.device),
    }
    files = run_files(spec, model) | {
        "optimizer.safetensors": moments,
        "random.safetensors": random,
        "state.json": state,
    }
    checkpoints = folder / "checkpoints"
    step = checkpoints / f"step-{done:08d}"
    write_folder(step, files)
    if not is_whole(step):  # a failing disk must not cost the last good one
        msg = f"{step}: cannot be read back as it was written; is the disk failing?"
        raise TrainingError(msg)
    for old in sorted(checkpoints.glob("step-*"))[:-KEEP]:
        remove_folder(old)


def restore_step(saved: SavedFolder, model: ContrastiveModel, optimizer: torch.optim.AdamW) -> int:
    """Restore weights and moments; return the steps that were done."""
    restore_weights(model, saved)
    parameters = dict(model.named_parameters())
    for key, value in saved.tensors("optimizer.safetensors").items():
        name, _, kind = key.rpartition("|")
        _check_moment(saved, key, value, parameters.get(name), kind)
        # AdamW counts its steps on the CPU, whatever the device
        device = "cpu" if kind == "step" else model.device
        optimizer.state[parameters[name]][kind] = value.to(device, copy=True)
    state: dict[str, Any] = saved.json("state.json")
    if state["torch"] != torch.__version__ or state["device"] != str(model.device):
        say(f"saved by torch {state['torch']} on {state['device']}: not the same to the last bit")
    return int(state["step"])


def _check_moment(
    saved: SavedFolder, key: str, value: Tensor, parameter: Tensor | None, kind: str
) -> None:
    """Insist on what AdamW keeps of a parameter of the model."""
    wanted = None if parameter is None else {"step": ()}.get(kind, tuple(parameter.shape))
    known = kind in ("step", "exp_avg", "exp_avg_sq")
    if not known or tuple(value.shape) != wanted or not value.is_floating_point():
        where = saved.path / "optimizer.safetensors"
        msg = f"{where}: {key} is of no parameter of this model; copy the checkpoint again"
        raise WeightsError(msg)


def restore_random(saved: SavedFolder, model: ContrastiveModel, batches: TrainingBatches) -> None:
    """Restore dropout's generator, if the rows are still those of the run.

    Raises:
        TrainingError: the data are not those that the run was trained on.
    """
    if saved.json("state.json")["rows"] != batches.fingerprint:
        rows = f"other rows than these {len(batches)}"
        msg = f"{saved.path}: was trained on {rows}; restore its data"
        raise TrainingError(msg)
    random = saved.tensors("random.safetensors")
    try:
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and model.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], model.device)
    except (LookupError, RuntimeError, TypeError):
        where = saved.path / "random.safetensors"
        msg = f"{where}: has no state of torch's generator; copy the checkpoint again"
        raise WeightsError(msg) from None
