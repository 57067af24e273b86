"""From a spec, a folder or a name to a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from contrastive.config.arguments import address_in, path_of
from contrastive.config.base import Config, validated
from contrastive.config.mistakes import misplaced, mistakes_of
from contrastive.config.overrides import overridden
from contrastive.config.registry import names_only
from contrastive.config.renamed import old_names, told_by_reader, warn
from contrastive.config.saved_origins import differences, saved_with
from contrastive.config.stored import export_in
from contrastive.config.yaml_files import load_spec
from contrastive.console import say
from contrastive.encoders.module import configs_hash, preprocess_hash
from contrastive.errors import ContrastiveError, SpecError, WeightsError
from contrastive.model.calibration_file import restore_calibration
from contrastive.model.freezing import weights_from_spec
from contrastive.model.hub import saved_on_hub
from contrastive.model.local_paths import data_found_again, places_of
from contrastive.model.model import ContrastiveModel
from contrastive.model.rebuilding import rebuilt
from contrastive.model.remote_models import fetched
from contrastive.model.run_checkpoints import newest_checkpoint
from contrastive.model.saved_folder import MANIFEST, SavedFolder, open_folder, way_back
from contrastive.model.sharded_files import read_shards
from contrastive.nn.fingerprint import first_not_finite, weights_fingerprint
from contrastive.pretrained import is_pretrained, pretrained_spec
from contrastive.spec import ModelSpec, RunSpec, kind_of_spec, require_run

S = TypeVar("S", bound=Config)
COPY_AGAIN = "copy the folder again, or save the model anew"
SpecLike = ModelSpec | RunSpec | Mapping[str, Any] | str | Path


def build_model(spec: SpecLike) -> ContrastiveModel:
    """Build a model with its initial weights.

    Args:
        spec: a ``ModelSpec`` or ``RunSpec``, a dict of the same content, or a YAML file's path.

    Raises:
        SpecError: the spec has mistakes; one line for each.
        MissingExtra: a library that it needs is not installed.
        WeightsError: pretrained weights cannot be found.

    Example:
        >>> sorted(build_model(SPEC).towers)
        ['image', 'text']
    """
    return ContrastiveModel(model_spec(spec))


def model_spec(spec: SpecLike) -> ModelSpec:
    """Return the ``ModelSpec`` in a spec, a dict or a file; a run's spec holds one too.

    Raises:
        SpecError: the spec has mistakes; one line for each.
    """
    checked = _checked(spec)
    return checked.model if isinstance(checked, RunSpec) else checked


def run_spec(spec: SpecLike) -> RunSpec:
    """Return the ``RunSpec`` in a spec, a dict or a file.

    Raises:
        SpecError: the spec has mistakes, one line for each; or it is that of a model alone.
    """
    return require_run(_checked(spec), f"{spec}: " if isinstance(spec, (str, Path)) else "")


def _checked(spec: SpecLike) -> ModelSpec | RunSpec:
    if isinstance(spec, (str, Path)):
        return load_spec(kind_of_spec, spec)
    if isinstance(spec, Mapping):
        return _validated(kind_of_spec(spec), spec, "the spec")
    if isinstance(cast("object", spec), (ModelSpec, RunSpec)):
        return spec.check_again()
    wanted = "a RunSpec, a ModelSpec, a dict, or the path of a YAML file"
    what = f"needs {wanted}, not {type(spec).__name__}"
    raise SpecError(misplaced(spec, wanted) or what)


def load_model(
    folder: str | Path, *, overrides: Iterable[str] = (), trusted: bool = False
) -> ContrastiveModel:
    """Load what ``save`` or a training run wrote, or a pretrained model, in eval mode on the CPU.

    Args:
        folder: a saved model, a checkpoint, or a run's folder (its final model, else its newest
            whole checkpoint), or the address of one (``s3://bucket/runs/a``); or
            ``hf:OWNER/NAME`` of a model that was pushed to the Hub, or of a pretrained one, as in
            ``pretrained_spec``.
        overrides: changes to the saved spec, for instance where weights that are not in the folder
            are now: ``towers.text.encoder.name=weights/distilbert``.
        trusted: let the folder's spec name components by import path (``module:Class``), which
            runs that module; only for folders of your own.

    Raises:
        WeightsError: the folder is not whole, or a frozen encoder is not the one it was, or its
            weights are not where they were.
        SpecError: its spec does not fit, for instance since a plugin is not installed; or an
            override has a mistake.

    Example:
        >>> model.save("saved")
        >>> sorted(load_model("saved").towers)
        ['image', 'text']
    """
    if isinstance(folder, (Config, Mapping)):
        msg = "load_model takes a folder or a name; build_model(spec) builds what a spec describes"
        raise SpecError(msg)
    place = saved_place(folder)
    if place is None:
        spec = pretrained_spec(folder)
        return ContrastiveModel(spec.with_(*overrides) if overrides else spec).eval()
    saved = open_folder(find_model(place))
    about: dict[str, Any] = {"trusted": trusted, "overrides": overrides}
    return load_saved(saved, stored_spec(ModelSpec, saved, "spec.json", **about))


def saved_place(given: str | Path) -> Path | None:
    """Return the local folder of a saved model or a run, of a storage or the Hub fetched.

    None for the name of a pretrained model of others.

    Raises:
        SpecError: it is no path.
        WeightsError: it cannot be fetched.
    """
    if address := address_in("folder", given):
        return fetched(address)
    path = path_of("folder", given)
    return saved_on_hub(given) if is_pretrained(given) else path


def load_saved(saved: SavedFolder, spec: ModelSpec) -> ContrastiveModel:
    """Load the model of a saved folder, whose spec is ``spec``, in eval mode on the CPU.

    Raises:
        WeightsError: as ``load_model``.
    """
    model = rebuilt(spec, saved)
    restore_weights(model, saved)
    model.seen = stored_samples(saved)
    restore_calibration(model, saved)
    return model.eval()


def stored_samples(saved: SavedFolder) -> dict[str, Tensor]:
    """Return the hashes of the samples that a model was trained on, ``[n]``, by modality.

    Raises:
        WeightsError: they are those of something else.
    """
    name = "seen.safetensors"
    found = {modality: hashes.clone() for modality, hashes in saved.tensors(name).items()}
    for modality, hashes in found.items():
        if modality not in saved.json("spec.json")["towers"]:
            msg = f"{saved.path / name}: has {modality!r}, which the model does not have"
        elif hashes.dtype != torch.int64 or hashes.ndim != 1:
            msg = f"{saved.path / name}: {modality} is not one row of integers"
        else:
            continue
        raise WeightsError(f"{msg}; {COPY_AGAIN}")
    return found


def stored_data(saved: SavedFolder) -> Any:
    """Return the plain data of a run's dataset; relative paths are whole where the files were."""
    parts, data = saved.json("parts.json"), saved.json("run.json").get("data")
    places = places_of(saved.path, parts.get("data", {}), parts.get("data_beside", {}))
    return data_found_again(data, places)


def stored_section(kind: type[S], saved: SavedFolder, name: str, section: str) -> S:
    """Read a section of a spec that was saved with a model, without import paths.

    Raises:
        SpecError: it does not fit.
    """
    with names_only(), told_by_reader():
        return _validated(
            kind, saved.json(name).get(section, {}), f"{saved.path / name}: {section}"
        )


def stored_spec(
    kind: type[S],
    saved: SavedFolder,
    name: str,
    *,
    trusted: bool = False,
    overrides: Iterable[str] = (),
    **known: Any,
) -> S:
    """Read a spec that was saved with a model.

    Args:
        kind: of the spec.
        saved: the folder.
        name: the file.
        trusted: follow import paths (``module:Class``) in it.
        overrides: changes to it.
        known: parts that are validated already, by field.

    Raises:
        WeightsError: the file is not there.
        SpecError: the spec does not fit; says which package is missing or of another version.
    """
    parts = saved.json("parts.json")
    data = {k: v for k, v in saved.json(name).items() if k != "format"}
    data = overridden(data, overrides)
    try:
        with (
            nullcontext() if trusted else names_only(),
            saved_with(parts.get("components")),
            told_by_reader(),
        ):
            spec = _validated(kind, data | known, str(saved.path / name))
    except ContrastiveError as error:
        with saved_with(parts.get("components")):
            msg = f"{error}{differences(parts['packages'], said=str(error))}"
        raise type(error)(msg) from error
    for old in old_names(spec, data):
        remedy = f"; run: contrastive validate --upgrade {saved.path}"
        warn(f"{old}{remedy}", file=str(saved.path / name), line=saved.line_of(name, old.key_path))
    return spec


def restore_weights(model: ContrastiveModel, saved: SavedFolder) -> None:
    """Load the weights of a saved folder; encoders that their spec brings back are checked.

    Raises:
        WeightsError: such an encoder is not the one that was saved, or a tensor is missing,
            unknown, of another shape or not finite; names the first.
    """
    restored: set[str] = set()
    for modality, fingerprint in saved.json("parts.json")["encoders"].items():
        if modality not in model.towers:
            where = saved.path / "parts.json"
            msg = f"{where}: has {modality!r}, which the model does not have; {COPY_AGAIN}"
            raise WeightsError(msg)
        tower = model.tower(modality)
        names = weights_from_spec(tower.encoder, tower.spec)
        restored |= {f"towers.{modality}.encoder.{name}" for name in names}
        if weights_fingerprint(tower.encoder, only=names) != fingerprint:
            msg = (
                f"{saved.path}: the {modality} encoder's weights are not those it was trained with"
            )
            raise WeightsError(msg)
    _check_files(model, saved)
    known = model.state_dict()
    sharded = read_shards(saved.path, saved.files, _room_for_weight)
    weights = saved.tensors("model.safetensors") | sharded
    where = saved.path if sharded else saved.path / "model.safetensors"
    for name, tensor in weights.items():
        if name in known and kind_of(tensor) != kind_of(known[name]):
            msg = f"{where}: {name} is {tensor.dtype}, not {known[name].dtype}; {COPY_AGAIN}"
            raise WeightsError(msg)
    try:
        missing, unknown = cast("Any", model.load_state_dict(weights, strict=False))
    except RuntimeError as error:
        what = _misfit(model, saved, weights) or " ".join(str(error).split())
        msg = f"{where}: {what}"
        raise WeightsError(msg) from None
    lost = [name for name in missing if name not in restored]
    if lost or unknown:
        what = f"lacks {lost[0]}" if lost else f"has {unknown[0]}, which the model does not have"
        msg = f"{where}: {what}{_since(model, saved)}"
        raise WeightsError(msg)
    if name := first_not_finite(weights.items()):
        msg = f"{where}: {name} is not finite: the run that wrote it diverged; take an older model"
        raise WeightsError(msg)


def _misfit(model: ContrastiveModel, saved: SavedFolder, weights: Mapping[str, Tensor]) -> str:
    """Return which weight has another shape than the model's, and the changes of the spec."""
    known = model.state_dict()
    both = weights.keys() & known.keys()
    unlike = (name for name in sorted(both) if known[name].shape != weights[name].shape)
    if not (name := next(unlike, "")):
        return ""
    was, now = (" x ".join(map(str, x.shape)) or "one number" for x in (weights[name], known[name]))
    return f"{name} is {was}, not {now}{_since(model, saved) or f'; {COPY_AGAIN}'}"


def _since(model: ContrastiveModel, saved: SavedFolder) -> str:
    """Return what was changed in the spec of a saved model, and what to do; or nothing."""
    before, after = saved.json("spec.json"), model.spec.model_dump(mode="json")
    changes = [f"{path} is {new}, and was {old}" for path, old, new in _changed(before, after)]
    how = "leave that out, or train a model so with contrastive train"
    return f", since {', '.join(changes)}; {how}" if changes else ""


def _changed(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that both specs have with another value, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in cast("dict[str, Any]", before):
            if key in after:
                yield from _changed(before[key], after[key], f"{path}.{key}" if path else key)
    elif before != after:
        yield path, before, after


def _room_for_weight(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
    """Return what a weight is read into; what an optimizer keeps of one has a | in its name."""
    return None if "|" in name else torch.empty(shape, dtype=dtype)


def _check_files(model: ContrastiveModel, saved: SavedFolder) -> None:
    """Tell of configs and preprocessing that are not what they were when the model was saved."""
    parts = saved.json("parts.json")
    configs, known = parts.get("configs", {}), parts.get("preprocess", {})
    for modality in model.towers:
        if configs.get(modality) not in (None, configs_hash(model.tower(modality).encoder)):
            say(
                f"{saved.path}: the config of the {modality} encoder has changed since the model "
                f"was saved, so its embeddings may be others; put back the files that it had"
            )
        if known.get(modality) not in (None, preprocess_hash(model.tower(modality).encoder)):
            say(
                f"{saved.path}: the {modality} encoder's preprocessing is not what it was when the "
                "model was saved, so its embeddings may be others; put back the tokenizer or "
                "processor that it had, or the versions of the libraries"
            )


def kind_of(tensor: Tensor) -> tuple[bool, bool]:
    """Return whether numbers are real, and whether they are fractions."""
    return tensor.is_complex(), tensor.is_floating_point()


def find_model(folder: Path) -> Path:
    """Return the folder with weights that ``folder`` stands for, or a pretrained model's name.

    Raises:
        WeightsError: there is none.
    """
    if is_pretrained(folder):
        return folder
    for place in (folder, folder / "model"):
        if (place / MANIFEST).exists():
            return place
        if left := way_back(place):
            return left
    if newest := newest_checkpoint(folder):
        return newest.path
    if folder.is_file():
        msg = f"{folder}: no model here, but a file; give the folder of a run or of a saved model"
        raise WeightsError(msg)
    how = export_in(folder) or "train one with: contrastive train SPEC.yaml"
    if not folder.exists() and len(folder.parts) == 2:  # it may be meant so
        how += f"; a model of the Hugging Face Hub is hf:{folder.as_posix()}"
    msg = f"{folder}: no model here; {how}"
    raise WeightsError(msg)


def _validated(kind: type[S], data: Any, origin: str) -> S:
    with mistakes_of(origin):
        return validated(kind, data)
