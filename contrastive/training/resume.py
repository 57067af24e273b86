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
from contrastive.errors import ContrastiveError, TrainingError
from contrastive.model.checkpoint import (
    FORMAT,
    MANIFEST,
    Content,
    SavedFolder,
    is_whole,
    open_folder,
    remove_folder,
    write_folder,
)
from contrastive.model.loading import restore_weights, stored_spec
from contrastive.training.finite import check_saved

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
    "training.micro_batch",  # the same gradients in less memory, but for rounding and dropout
    "training.checkpoint_activations",
    "data.folder",  # whether the rows are still the same is seen from the rows
    "data.repo",
)
"""Parts of a spec that a resumed run may change: they do not change what is learned."""

OWN_OF_A_RANK = ("output", "training.workers", "training.device", "data.folder", "data.repo")
"""Parts of a spec in which the ranks of a run may differ."""

KEEP = 2  # checkpoints: the newest, and the one before it in case that one is damaged


def start_or_resume(folder: Path, spec: RunSpec, *, resume: bool) -> SavedFolder | None:
    """Return the checkpoint to go on from, if that is what is asked.

    Raises:
        TrainingError: the folder is a saved model; or it holds a run and ``resume`` is not asked
            for, or it is and there is no whole checkpoint, or it is of a run that another spec
            describes.
    """
    if (folder / MANIFEST).exists():  # which would hide the model of the run in it
        msg = f"{folder}: is a saved model; choose another output"
        raise TrainingError(msg)
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


def shared_fields(spec: RunSpec) -> dict[str, Any]:
    """Return what the specs of all ranks have to agree in, by dotted names."""
    fields = _flat(spec.model_dump(mode="json"))
    return {name: x for name, x in fields.items() if not name.startswith(OWN_OF_A_RANK)}


def run_files(spec: RunSpec, model: ContrastiveModel) -> dict[str, Content]:
    """Return what the folder of a trained model consists of, file by file."""
    files = model.state_files()
    parts = cast("dict[str, Any]", files["parts.json"])
    components = parts["components"]
    for kind, found in origins(spec.data).items():
        components = components | {kind: components.get(kind, {}) | found}
    run = {"format": FORMAT} | spec.model_dump(mode="json")
    return files | {"parts.json": parts | {"components": components}, "run.json": run}


def step_folder(folder: Path, done: int) -> Path:
    """Return where the checkpoint of ``done`` steps is."""
    return folder / "checkpoints" / f"step-{done:08d}"


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
    check_saved(done, [*model.state_dict().items(), *moments.items()])
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
    step = step_folder(folder, done)
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
        # AdamW counts its steps on the CPU, whatever the device
        device = "cpu" if kind == "step" else model.device
        optimizer.state[parameters[name]][kind] = value.to(device, copy=True)
    state: dict[str, Any] = saved.json("state.json")
    if state["torch"] != torch.__version__ or state["device"] != str(model.device):
        say(f"saved by torch {state['torch']} on {state['device']}: not the same to the last bit")
    return int(state["step"])


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
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and model.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], model.device)
