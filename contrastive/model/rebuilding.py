"""From the spec of a saved folder to its modules: in the folder, where files were, or elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.encoders.weight_folders import copies_at
from contrastive.errors import WeightsError
from contrastive.model.local_paths import LOCAL, found_again, places_of, relative_fields
from contrastive.model.model import ContrastiveModel
from contrastive.model.weight_copies import paths_in, places_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from contrastive.encoders import Encoder
    from contrastive.model.saved_folder import SavedFolder
    from contrastive.spec import ModelSpec, Tower


def rebuilt(spec: ModelSpec, saved: SavedFolder) -> ContrastiveModel:
    """Return the model of a saved folder, whose spec is ``spec``, before its weights are restored.

    Raises:
        WeightsError: files that it names are neither here nor where they were; says how to tell
            where they are.
    """
    parts: dict[str, Any] = saved.json("parts.json")
    copies: dict[str, list[dict[str, Any]]] = parts.get("copies", {})
    towers = {m: _located(m, tower, saved) for m, tower in spec.towers.items()}
    without = {m: _without_weights(t, m in parts["encoders"]) for m, t in towers.items()}
    places = [places_in(saved.path, several) for several in copies.values()]
    with copies_at({named: place for found in places for named, place in found.items()}):
        try:
            model = ContrastiveModel(spec.model_copy(update={"towers": without}))
        except WeightsError as error:
            if remedy := _remedy(spec, towers, saved, str(error)):
                raise WeightsError(remedy) from error
            raise
    model.spec, model.whole = spec, bool(copies)
    for modality, tower in spec.towers.items():  # as the cache and the next save see them
        built, encoder = model.tower(modality), towers[modality].encoder
        known = parts.get("paths", {}).get(modality, {}) | built.paths
        own = paths_in(saved.path, copies.get(modality, ()))
        built.spec, built.paths = tower, known | {field: str(path) for field, path in own.items()}
        names = {_named(encoder, field): path for field, _, path in relative_fields(tower.encoder)}
        built.folders = [replace(x, name=names.get(x.name, x.name)) for x in built.folders]
    return model


def _located(modality: str, tower: Tower, saved: SavedFolder) -> Tower:
    """Return a tower that says where its files are now; a field that was overridden is as it says.

    Its files are in the saved folder, where they were, or in the working folder.
    """
    parts, encoder = saved.json("parts.json"), tower.encoder
    whole, beside = (parts.get(key, {}).get(modality, {}) for key in ("paths", "beside"))
    before = saved.json("spec.json")["towers"].get(modality, {}).get("encoder", {})
    kept = {field for field, was in before.items() if str(getattr(encoder, field, "")) == str(was)}
    copies: Iterable[Mapping[str, Any]] = parts.get("copies", {}).get(modality, ())
    if copies:
        own = {field: path for field, path in paths_in(saved.path, copies).items() if field in kept}
        encoder = encoder.model_copy(update=own)
    else:
        places = places_of(saved.path, whole, beside)
        encoder = found_again(encoder, {field: places[field] for field in kept & places.keys()})
    return tower.model_copy(update={"encoder": encoder})


def _without_weights(tower: Tower, wanted: bool) -> Tower:
    """Fetch no pretrained weights that saved ones overwrite."""
    if wanted:
        return tower
    known = type(tower.encoder).model_fields
    off = {k: v for k, v in {"pretrained": False, "weights": None}.items() if k in known}
    return tower.model_copy(update={"encoder": tower.encoder.model_copy(update=off)})


def _remedy(
    spec: ModelSpec, towers: Mapping[str, Tower], saved: SavedFolder, said: str
) -> str | None:
    """Return what to say of files that are missing, and how to tell where they are now."""
    for modality, tower in towers.items():
        for field in ("weights", "name"):
            named = getattr(tower.encoder, field, None)
            path = _named(tower.encoder, field) if named else ""
            if not path or Path(path).expanduser().exists() or path not in said:
                continue
            prefix = LOCAL if str(named).startswith(LOCAL) else ""
            change = f"towers.{modality}.encoder.{field}={prefix}PATH"
            how = f"load_model({str(saved.path)!r}, overrides=[{change!r}]), or --set {change}"
            was = getattr(spec.towers[modality].encoder, field)
            if not (Path(path).is_absolute() or path.startswith((".", "~"))):
                return f"{saved.path}: {said}; or say where it is: {how}"  # of the Hub
            there = f"neither in {Path.cwd()} nor at {path}" if str(was) != str(named) else "gone"
            what = "weights are" if field == "weights" else "folder is"
            return f"{saved.path}: the {modality} encoder's {what} {there}; say where it is: {how}"
    return None


def _named(encoder: Encoder, field: str) -> str:
    return str(getattr(encoder, field)).removeprefix(LOCAL)
