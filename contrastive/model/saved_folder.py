"""Saved folders: safetensors and JSON, either whole or not there.

``manifest.json`` has the size and SHA-256 of each file; it is written last and deleted first. A
folder is built beside its place, flushed to the disk and exchanged with the previous one, so that
a crash or a full disk leaves one of the two, whole (``contrastive.data.storage.atomic_files``).
It is verified when it is first read, once in a process. Nothing in it is ever unpickled. Only
files that a manifest lists are ever deleted; where it is damaged, only those by the names that a
model has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from contrastive.config.stored import MANIFEST
from contrastive.data.storage.atomic_files import (
    BUILT,
    DROPPED,
    beside,
    discard,
    flush_folder,
    leftovers,
    link,
    put,
    write,
)
from contrastive.errors import WeightsError
from contrastive.model.saved_files import (
    BACKGROUND,
    CALIBRATION,
    CHECKPOINT,
    MODEL,
    NAME,
    Listed,
    Manifest,
    check_file,
    read_json,
    shaped,
)
from contrastive.model.sharded_files import shard_files
from contrastive.model.tensor_pieces import Counted, Piece, safetensors_pieces

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FORMAT = 2
"""Of the manifest. Format 1, of 0.1, has no number and is the mapping of files itself."""
IN_WORDS = ("spec.json", "parts.json")
"""What every saved model has beside its tensors."""
Content = Mapping[str, Any]

_STEP = re.compile(r"\.?step-\d{8}")  # a run's checkpoint; with a dot, while it is made or removed
_verified: dict[Path, object] = {}
"""By folder, the state of its files when they last agreed with the manifest."""


class UnreadableError(WeightsError):
    """A folder that cannot be judged: its disk gives no answer, or a later release wrote it."""


@dataclass(frozen=True)
class SavedFolder:
    """A folder whose files agree with its manifest."""

    path: Path
    files: frozenset[str]
    _parsed: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    def json(self, name: str) -> Any:
        """Return the plain data of a JSON file, parsed once: do not change it.

        Raises:
            WeightsError: the file is not in the folder, not JSON, or not of its shape.
        """
        if name not in self._parsed:
            try:
                self._parsed[name] = read_json(self._file(name))
            except OSError as error:
                msg = f"{self.path / name}: cannot be read: {_one_line(error)}"
                raise WeightsError(msg) from None
        return self._parsed[name]

    def line_of(self, name: str, key_path: Iterable[str]) -> int:
        """Return the line of a key in a JSON file, as ``write_folder`` lays it out."""
        lines = self._file(name).read_text(encoding="utf-8").splitlines()
        number = 0
        for depth, key in enumerate(key_path, 1):
            start = " " * depth + json.dumps(key, ensure_ascii=False) + ":"
            found = (i for i in range(number, len(lines)) if lines[i].startswith(start))
            number = next(found, number)
        return number + 1

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a safetensors file, memory-mapped: clone what outlives the file.

        Raises:
            WeightsError: the file is not in the folder, or is not safetensors.
        """
        try:
            return load_file(self._file(name))
        except WeightsError:
            raise
        except Exception as error:  # torch's own, for shapes and types that it does not have
            msg = f"{self.path / name}: not a safetensors file: {_one_line(error)}"
            raise WeightsError(msg) from None

    def _file(self, name: str) -> Path:
        if name not in self.files:
            msg = f"{self.path / name}: the manifest has no such file"
            raise WeightsError(msg)
        return self.path / name


def write_folder(
    folder: Path,
    files: Mapping[str, Content],
    *,
    keep: Collection[str] = (),
    others: Callable[[Path], Mapping[str, dict[str, Any]]] | None = None,
) -> None:
    """Write a folder as one step: ``*.safetensors`` from tensors, ``*.json`` from plain data.

    An older folder that was written so is replaced.

    Args:
        folder: its place.
        files: their content, by name.
        keep: files of the older folder that stay.
        others: writes more files to the folder that it is given, and returns what the manifest says
            of each, as ``write_shards``.

    Raises:
        WeightsError: the folder holds something else, or the disk is full or not writable; what
            was there before is untouched.
    """
    folder = folder.resolve() if folder.is_symlink() else folder.absolute()
    recover(folder)
    building = beside(folder, BUILT)
    try:
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        listed: dict[str, dict[str, Any]] = {**(others(building) if others else {})}
        for name, content in files.items():
            write(building / name, counted := Counted(_encode(name, content)))
            listed[name] = {"bytes": counted.bytes, "sha256": counted.sha256}
        known = _read_manifest(folder) if keep else {}
        for name in keep:
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            link(folder / name, building / name)
            size = (building / name).stat().st_size
            listed[name] = {"bytes": size, "sha256": known[name].sha256}
        write(building / MANIFEST, _encode(MANIFEST, {"format": FORMAT, "files": listed}))
        flush_folder(building)
        before = put(building, folder)
    except BaseException as error:
        discard(building, {*files, *keep, *_files_in(building)}, last=MANIFEST)
        if not isinstance(error, OSError):
            raise
        msg = f"{folder}: cannot be written: {error.strerror or error}"
        raise WeightsError(msg) from error
    if before:
        discard(before, _own_files(before), last=MANIFEST, into=folder)


def _files_in(folder: Path) -> set[str]:
    """Return the files of a folder that only this process knows."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _check_replaceable(folder: Path) -> None:
    if problem := not_replaceable(folder):
        msg = f"{folder}: {problem}; choose a new or empty folder"
        raise WeightsError(msg)


def not_replaceable(folder: Path) -> str:
    """Return why a folder is neither a saved model, nor empty, nor a new one; "" if it is."""
    if folder.is_dir():
        other = any(folder.iterdir()) and not _is_saved_model(folder)
        return "holds other things than a saved model" if other else ""
    return "is a file" if folder.exists() else ""


def _is_saved_model(folder: Path) -> bool:
    """Whether a manifest, whose name other programs use too, is that of a model or beside one."""
    if not (folder / MANIFEST).exists():
        return False
    if all((folder / name).exists() for name in IN_WORDS):  # however damaged the manifest is
        return True
    with suppress(WeightsError):
        return _read_manifest(folder).keys() >= MODEL
    return False


def remove_folder(folder: Path) -> None:
    """Delete a folder; whoever looks meanwhile sees all of it or nothing.

    One that holds other things, or is a link, stays.

    Raises:
        OSError: it cannot be.
    """
    _verified.pop(folder.absolute(), None)
    own = _own_files(folder)
    if not folder.is_symlink() and own.issuperset(path.name for path in folder.iterdir()):
        discard(folder.rename(beside(folder, DROPPED)), own, last=MANIFEST)


def recover(folder: Path) -> None:
    """Finish what a process that was killed began: a folder's replacement or its deletion.

    If the folder is gone, the whole one beside it takes its place. What it has superseded, what was
    never whole and what is half deleted goes. Whatever cannot be judged stays.
    """
    for left, place in leftovers(folder.parent):
        if place.name != folder.name:
            continue
        with suppress(OSError, WeightsError):
            if folder.exists():
                if is_whole(folder):
                    discard(left, _own_files(left), last=MANIFEST, into=folder)
            elif is_whole(left):
                put(left, folder)
            elif left.suffix == BUILT or not (left / MANIFEST).exists():
                discard(left, _own_files(left), last=MANIFEST)


def way_back(folder: Path) -> Path | None:
    """Return the whole folder that a killed process left beside the place of one that is gone."""
    if folder.exists():
        return None
    beside_it = (left for left, place in leftovers(folder.parent) if place.name == folder.name)
    return next((left for left in beside_it if is_whole(left)), None)


def _own_files(folder: Path) -> set[str]:
    """Return the files of a folder that ``write_folder`` wrote."""
    try:
        listed = {*_manifest(folder).files}
        if all(NAME.fullmatch(name) and (folder / name).exists() for name in listed):
            return listed | {MANIFEST}
    except (OSError, WeightsError):
        pass
    # without a manifest that can be trusted, by their names
    return {*CHECKPOINT, CALIBRATION, BACKGROUND, MANIFEST} | (
        shard_files(folder) if folder.is_dir() else set()
    )


def open_folder(folder: Path) -> SavedFolder:
    """Open a folder to read from, after its files are checked against its manifest.

    A file is hashed again only if it has changed since this process last did so.

    Raises:
        WeightsError: it is not there, not whole, not what was written, or of a newer format; names
            the file.
    """
    try:
        listed = _read_manifest(folder)
        if lacking := sorted((CHECKPOINT if _STEP.match(folder.name) else MODEL) - listed.keys()):
            msg = f"{folder / MANIFEST}: does not list {lacking[0]}; copy the folder again"
            raise WeightsError(msg)
        paths = {name: folder / name for name in sorted(listed)}
        for name, path in paths.items():
            check_file(path, listed[name].bytes, ours="/" not in name)
        state = listed, [_state(path) for path in paths.values()]
        if _verified.get(folder.absolute()) != state:
            for name, path in paths.items():
                if _sha256(path) != listed[name].sha256:
                    msg = f"{path}: damaged (its SHA-256 is not the manifest's); copy it again"
                    raise WeightsError(msg)
            _verified[folder.absolute()] = state
    except FileNotFoundError as error:
        msg = f"{error.filename}: no such file; is {folder} a folder that a model was saved to?"
        raise WeightsError(msg) from None
    except (IsADirectoryError, NotADirectoryError) as error:
        msg = f"{error.filename}: damaged (is no file of a folder); copy it again"
        raise WeightsError(msg) from None
    except OSError as error:
        msg = f"{error.filename or folder}: cannot be read: {error.strerror or _one_line(error)}"
        raise UnreadableError(msg) from None
    return SavedFolder(folder, frozenset(listed))


def is_whole(folder: Path) -> bool:
    """Return whether ``folder`` is there and every file in it is as it was written.

    Raises:
        UnreadableError: that cannot be told.
    """
    try:
        open_folder(folder)
    except UnreadableError:
        raise
    except WeightsError:
        return False
    return True


def _read_manifest(folder: Path) -> dict[str, Listed]:
    """Return each file in a folder; what we do not write there is left out, and paths."""
    return {name: about for name, about in _manifest(folder).files.items() if NAME.fullmatch(name)}


def format_of(folder: Path) -> int:
    """Return the format of a saved folder."""
    return _manifest(folder).format


def _manifest(folder: Path) -> Manifest:
    written: Any = read_json(folder / MANIFEST)
    number = cast("dict[str, Any]", written).get("format") if isinstance(written, dict) else None
    if isinstance(number, int) and number > FORMAT:
        msg = (
            f"{folder}: was saved in format {number}, this version reads up to {FORMAT}; run: "
            "pip install --upgrade contrastive-kit"
        )
        raise UnreadableError(msg)
    whole = {"files": cast("Any", written)} if number is None else cast("Any", written)
    return shaped(Manifest, whole, folder / MANIFEST)


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does: its place on the disk, its size and its times."""
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _encode(name: str, content: Content) -> Iterable[Piece]:
    if name.endswith(".safetensors"):
        return safetensors_pieces(content)
    return [(json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()]
