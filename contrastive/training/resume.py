"""Going on with a run: from which checkpoint, and whether spec and data are still the same."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.config.renamed import earlier_defaults
from contrastive.console import say
from contrastive.distributed.sharding import like
from contrastive.errors import ContrastiveError, TrainingError, WeightsError
from contrastive.model.loading import stored_samples, stored_spec
from contrastive.model.run_checkpoints import (
    checkpoint_folder,
    damaged_checkpoints,
    newest_checkpoint,
)
from contrastive.model.saved_folder import (
    MANIFEST,
    SavedFolder,
    not_replaceable,
)
from contrastive.model.sharded_files import read_shards
from contrastive.nn.sharded_tensors import own_part
from contrastive.reporting.run_log import holds_log
from contrastive.training.built import autocast_dtype
from contrastive.training.checkpoints import Progress, drop_older, progress_of
from contrastive.training.fp16_scaling import LossScale
from contrastive.training.optimizer import takes_one_pass

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec, TrainingSpec
    from contrastive.training.batches import TrainingBatches

CHANGEABLE_ON_RESUME = (
    "output",
    "evaluation.",
    "training.workers",
    "training.device",
    "training.checkpoint_every",
    "training.keep.",
    "training.trackers",
    "training.micro_batch",  # the same gradients in less memory, but for rounding and dropout
    "training.checkpoint_activations",
    "training.parallel.strategy",
    "data.folder",  # whether the rows are still the same is seen from the rows
    "data.repo",
    "data.shards",
    "data.files",
    "data.cache_gb",
    "data.private",
)
"""Parts of a spec that a resumed run may change: they do not change what is learned."""

_IN_A_MIX = re.compile(r"(?<=^data\.)(datasets\.[^.]+\.)+")

OWN_OF_A_RANK = (
    *("output", "training.workers", "training.device"),
    *("data.folder", "data.repo", "data.shards", "data.files", "data.cache_gb", "data.private"),
)
"""Parts of a spec in which the ranks of a run may differ."""


def start_or_resume(
    folder: Path, spec: RunSpec, *, resume: bool
) -> tuple[SavedFolder | None, RunSpec]:
    """Return the checkpoint to go on from, if that is what is asked and there is one; and the spec.

    A default that a later release has changed is as the run began.

    Raises:
        TrainingError: the folder is a saved model; or it holds a run and ``resume`` is not asked
            for, or it is and there is no whole checkpoint, or it is of another step than its name
            says, or of a run that another spec describes.
        WeightsError: the newest checkpoint cannot be read, or is of a later release.
    """
    if (folder / MANIFEST).exists():  # which would hide the model of the run in it
        msg = f"{folder}: is a saved model; choose another output"
        raise TrainingError(msg)
    log, model = folder / "log.jsonl", folder / "model"
    if problem := not_replaceable(model):
        msg = f"{model}: {problem}; choose another output"
        raise TrainingError(msg)
    if not resume:
        if not any(map(_has_content, (log, model, folder / "checkpoints"))):
            return None, spec
        msg = (
            f"{folder}: holds a run already; go on with resume=True (--resume), or choose "
            "another output"
        )
        if not holds_log(log):
            msg = f"{log}: is not the log of a run; choose another output"
        raise TrainingError(msg)
    if saved := newest_checkpoint(folder, set_aside=True):
        if saved.path != checkpoint_folder(folder, number := progress_of(saved).step):
            msg = f"{saved.path}: is a copy of step {number}; move it out of this folder"
            raise TrainingError(msg)
        spec = _same_run(saved, spec)
        drop_older(folder, spec, progress_of(saved))  # a killed process had no time for it
        return saved, spec
    if _has_content(model) or not log.exists() or damaged_checkpoints(folder):
        done = f"; {model} is finished" if _has_content(model) else ""
        remedy = "choose another output"
        if not any(map(_has_content, (log, model, folder / "checkpoints"))):
            remedy = "to begin, leave out resume=True (--resume)"
        msg = f"{folder}: nothing to resume here{done}; {remedy}"
        raise TrainingError(msg)
    say(f"{folder}: ended before its first checkpoint; starting at step 1")
    return None, spec


def _has_content(path: Path) -> bool:
    """Whether there is a file or a folder that is not empty."""
    try:
        return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _same_run(saved: SavedFolder, spec: RunSpec) -> RunSpec:
    """Return the spec as the run began; refuse one under which it would have been another run."""
    data = {name: value for name, value in saved.json("run.json").items() if name != "format"}
    with suppress(ContrastiveError):  # fields that an older version did not know get their defaults
        data = stored_spec(type(spec), saved, "run.json").model_dump(mode="json")
    before = _flat(data)
    for key_path, then in earlier_defaults(spec):
        if before.get(name := ".".join(key_path)) == then:
            say(f"{name}: {then}, as the run began; the default is another now")
            spec = spec.with_(f"{name}={_as_override(then)}")
    now = _flat(spec.model_dump(mode="json"))
    # of a component that is another one, the fields are others, too
    for name in sorted(before.keys() | now.keys(), key=lambda name: (not _is_type(name), name)):
        if before.get(name) != now.get(name) and not _is_of(name, CHANGEABLE_ON_RESUME):
            then = _as_override(before.get(name))
            remedy = f"give {name}={then}, or " if name in before else f"leave {name} out, or "
            if _is_type(name) and ":" in then:  # nobody is told to run what a stranger's run names
                remedy = ""
            msg = (
                f"{saved.path}: was trained with {name}: {then}, the spec says "
                f"{_as_override(now.get(name))}; {remedy}start anew in another folder"
            )
            raise TrainingError(msg)
    return spec


def _is_of(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a field is one of some parts of a spec; a dataset in a mix is as one alone."""
    return _IN_A_MIX.sub("", name).startswith(parts)


def _is_type(name: str) -> bool:
    return name.endswith(".type")


def _as_override(value: Any) -> str:
    """Return a value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


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
    return {name: x for name, x in fields.items() if not _is_of(name, OWN_OF_A_RANK)}


def restore_optimizer(
    saved: SavedFolder, model: ContrastiveModel, optimizer: torch.optim.AdamW
) -> Progress:
    """Restore the moments of weights that are restored, and sharded; return how far the run is."""
    parameters = dict(model.named_parameters())
    state: dict[str, Any] = saved.json("state.json")
    if not state.get("fused"):  # as the run began, to the last bit
        for group in optimizer.param_groups:
            group["fused"] = None
    # AdamW counts its steps on the CPU, whatever the device, unless it takes one pass
    counts = model.device if takes_one_pass(optimizer) else "cpu"

    def sharded(key: str, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        name, is_moment, _ = key.rpartition("|")
        if not is_moment:
            return None
        if name in parameters and parameters[name].shape == shape:
            return torch.empty_like(parameters[name], dtype=dtype)
        return torch.empty(shape, dtype=dtype)  # which is refused below

    shards = read_shards(saved.path, saved.files, sharded)
    moments = saved.tensors("optimizer.safetensors") | shards
    for key, value in moments.items():
        name, _, kind = key.rpartition("|")
        where = saved.path if key in shards else saved.path / "optimizer.safetensors"
        _check_moment(where, key, value, parameters.get(name), kind)
        optimizer.state[parameters[name]][kind] = (
            value.to(counts, copy=True) if kind == "step" else like(value, parameters[name])
        )
    if state["torch"] != torch.__version__ or state["device"] != str(model.device):
        say(f"saved by torch {state['torch']} on {state['device']}: not bit-identical")
    return progress_of(saved)


def loss_scale_of(
    settings: TrainingSpec, device: torch.device, progress: Progress
) -> LossScale | None:
    """Return the loss scale of a run in fp16, as it was saved if it was."""
    if autocast_dtype(settings, device) is not torch.float16:
        return None
    return LossScale(device, progress.loss_scale)


def _check_moment(
    where: Path, key: str, value: Tensor, parameter: Tensor | None, kind: str
) -> None:
    """Insist on what AdamW keeps of a parameter of the model."""
    wanted = None if parameter is None else {"step": ()}.get(kind, tuple(parameter.shape))
    known = kind in ("step", "exp_avg", "exp_avg_sq")
    if not known or tuple(value.shape) != wanted or not value.is_floating_point():
        msg = f"{where}: {key} is of no parameter of this model; copy the checkpoint again"
        raise WeightsError(msg)
    if not own_part(value).isfinite().all():
        msg = f"{where}: {key} is not finite; remove this checkpoint, to go on from the one before"
        raise WeightsError(msg)


def restore_random(saved: SavedFolder, model: ContrastiveModel, batches: TrainingBatches) -> None:
    """Restore dropout's generator, if the rows and what files hold are still those of the run.

    Raises:
        TrainingError: the data are not those that the run was trained on.
    """
    if saved.json("state.json")["rows"] != batches.fingerprint:
        rows = f"other rows than these {len(batches)}"
        msg = f"{saved.path}: was trained on {rows}; restore its data"
        raise TrainingError(msg)
    for modality, then in stored_samples(saved).items():
        lost = then[~torch.isin(then, model.seen[modality])]
        if len(lost):
            msg = (
                f"{saved.path}: {len(lost)} of the {len(then)} {modality} samples that it was "
                "trained on are others now, under the same names; restore its data"
            )
            raise TrainingError(msg)
    before, now = saved.json("state.json").get("ranks", 0), batches.ranks.size
    if before and before != now:
        say(f"saved by {before} ranks, resumed by {now}: the same batches, not to the last bit")
    random = saved.tensors("random.safetensors")
    try:
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and model.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], model.device)
        elif "mps" in random and model.device.type == "mps":
            torch.mps.set_rng_state(random["mps"])
    except (LookupError, RuntimeError, TypeError):
        where = saved.path / "random.safetensors"
        msg = f"{where}: has no state of torch's generator; copy the checkpoint again"
        raise WeightsError(msg) from None
