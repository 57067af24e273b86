"""Copies, in a saved model, of the files that its encoders were loaded from.

With them it is loaded where neither the Hub's cache nor the folders are that its spec names: by the
encoder's own way, so to the same bits. They lie in ``encoders/0``, ``encoders/1``, ...; two towers
of one folder share a copy. Weights that are saved with the model anyway are left out, and so is
what no loader is given: pickles and code.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrastive.console import say
from contrastive.data.storage.atomic_files import flush_folder, write
from contrastive.encoders.weights import FILES
from contrastive.errors import WeightsError
from contrastive.model.local_paths import LOCAL
from contrastive.model.saved_files import COPIES, NAME

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from contrastive.encoders import Encoder
    from contrastive.encoders.weight_folders import Named
    from contrastive.model.tower import TowerModule

COPIED_AT_ONCE = 1 << 24  # bytes that are copied at a time
WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True)
class Copies:
    """What is to be copied into a saved model."""

    files: Mapping[str, Path]
    """By the name in the saved folder, the file."""
    about: Mapping[str, list[dict[str, Any]]]
    """By modality, what ``parts.json`` says: the name that was asked for, or the field with the
    path, and where the copy is."""

    def write(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Copy the files; return the size and SHA-256 of each, as the manifest has them.

        Raises:
            OSError: one cannot be read or written.
        """
        listed = {name: _copy(file, folder / name) for name, file in self.files.items()}
        for place in sorted({(folder / name).parent for name in listed}):
            flush_folder(place)
        return listed


def copies_of(towers: Iterable[tuple[str, TowerModule]], rebuilt: Iterable[str]) -> Copies:
    """Return what towers need of the folders that they were loaded from.

    Args:
        towers: by modality.
        rebuilt: modalities whose encoder's weights are not saved with the model.

    Raises:
        WeightsError: a folder is no longer there, or a file of a kind that no saved model has.
    """
    files: dict[str, Path] = {}
    about: dict[str, list[dict[str, Any]]] = {}
    numbers: defaultdict[Path, int] = defaultdict(lambda: len(numbers))
    rebuilt = {*rebuilt}
    for modality, tower in towers:
        spec = tower.spec.encoder
        weights = modality in rebuilt or "pretrained" not in type(spec).model_fields
        asked = [
            ({"name": found.name, "revision": found.revision}, found.folder, found.files)
            for found in tower.folders
        ]
        asked += [
            ({"field": field}, path, FILES)
            for field, path in _paths(spec, tower.paths)
            if weights or path.suffix not in WEIGHTS
        ]
        for who, path, patterns in asked:
            place = f"{COPIES}/{numbers[path.resolve()]}"
            if path.is_file():
                files[place := f"{place}/{_name_of(path)}"] = path
            else:
                files |= {
                    f"{place}/{file.relative_to(path).as_posix()}": file
                    for file in _chosen(path, patterns, weights=weights)
                }
            if any(name == place or name.startswith(f"{place}/") for name in files):
                about.setdefault(modality, []).append({**who, "place": place})
        if modality in rebuilt and modality not in about:
            say(
                f"towers.{modality}: the weights of {type(spec).__name__} come with its package, "
                "and are not copied into the saved model; where it is loaded, install that version"
            )
    return Copies(dict(_nameable(files)), about)


def without_paths(files: Mapping[str, Any], copies: Copies) -> dict[str, Any]:
    """Return ``spec.json`` and ``parts.json`` of a model that holds copies, by short names.

    Of a whole path its last part stays, by which the copy is found as well: what is shared says
    nothing of this machine.
    """
    spec, parts = files["spec.json"], files["parts.json"]
    towers: dict[str, Any] = dict(spec["towers"])
    about: dict[str, list[dict[str, Any]]] = {}
    taken: dict[str, str] = {}  # by short name, the copy
    for modality, several in copies.about.items():
        tower = towers[modality]
        encoder: dict[str, Any] = dict(tower["encoder"])
        about[modality] = []
        for copy in several:
            if "field" in copy:
                encoder[copy["field"]] = Path(encoder[copy["field"]]).name
                about[modality].append(copy)
                continue
            short, place = _short(copy["name"]), copy["place"]
            if taken.setdefault(short, place) != place:
                short = f"{short}-{place.rpartition('/')[2]}"
                taken[short] = place
            encoder = _renamed(encoder, copy["name"], short)
            about[modality].append({**copy, "name": short})
        towers[modality] = {**tower, "encoder": encoder}
    outside: dict[str, Any] = {
        key: {m: paths for m, paths in parts[key].items() if m not in about}
        for key in ("paths", "beside")
    }
    return {
        "spec.json": {**spec, "towers": towers},
        "parts.json": {**parts, **outside, "copies": about},
    }


def _short(name: str) -> str:
    whole = Path(name).is_absolute() or name.startswith("~")
    return Path(name).name if whole else name


def _renamed(value: Any, name: str, short: str) -> Any:
    """Return plain data in which a folder has another name, also within encoders of encoders."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _renamed(inner, name, short) for key, inner in items}
    if isinstance(value, list):
        return [_renamed(inner, name, short) for inner in cast("list[Any]", value)]
    prefix = LOCAL if isinstance(value, str) and value.startswith(LOCAL) else ""
    return f"{prefix}{short}" if value == f"{prefix}{name}" else value


def _paths(spec: Encoder, known: Mapping[str, str]) -> Generator[tuple[str, Path]]:
    for field in type(spec).model_fields:
        value: Any = getattr(spec, field)
        if isinstance(value, Path):
            path = Path(known.get(field, value)).expanduser()
            if path.exists():
                yield field, path


def _chosen(folder: Path, patterns: Sequence[str], *, weights: bool) -> Generator[Path]:
    """Yield the files in a folder that a download of the model would have brought."""
    if not folder.is_dir():
        msg = f"{folder}: no such folder any more, and a whole model has a copy; put it back"
        raise WeightsError(msg)
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        chosen = any(fnmatch(inside.as_posix(), pattern) for pattern in patterns)
        if chosen and not hidden and file.is_file() and (weights or not _is_weights(file)):
            yield file


def _is_weights(file: Path) -> bool:
    return file.name.endswith(WEIGHTS)


def _name_of(file: Path) -> str:
    """Return what a file is called in a saved model, which takes not every letter.

    Raises:
        WeightsError: it has no files of this kind.
    """
    for name in (file.name, f"file{file.suffix}"):
        if NAME.fullmatch(f"{COPIES}/0/{name}"):
            return name
    msg = f"{file}: a saved model has no files of this kind, so that it is not whole; save without"
    raise WeightsError(f"{msg} whole=True")


def _nameable(files: Mapping[str, Path]) -> Generator[tuple[str, Path]]:
    for name, file in files.items():
        if NAME.fullmatch(name):
            yield name, file
        else:
            say(f"{file}: is not copied into the saved model, which has no files of such names")


def _copy(file: Path, place: Path) -> dict[str, Any]:
    place.parent.mkdir(parents=True, exist_ok=True)
    found, size = hashlib.sha256(), 0
    with file.open("rb") as source:

        def pieces() -> Generator[bytes]:
            nonlocal size
            while piece := source.read(COPIED_AT_ONCE):
                found.update(piece)
                size += len(piece)
                yield piece

        write(place, pieces())
    return {"bytes": size, "sha256": found.hexdigest()}


def places_in(folder: Path, copies: Iterable[Mapping[str, Any]]) -> dict[Named, Path]:
    """Return, by what an encoder asks for, where a saved model has its copy."""
    return {
        (copy["name"], copy.get("revision")): folder / copy["place"]
        for copy in copies
        if "name" in copy
    }


def paths_in(folder: Path, copies: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
    """Return, by the field that names a path, where a saved model has its copy."""
    return {copy["field"]: folder / copy["place"] for copy in copies if "field" in copy}
