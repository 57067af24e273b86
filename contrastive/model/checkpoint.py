"""Saved folders: safetensors and JSON, either whole or not there.

``manifest.json`` has the size and SHA-256 of each file and is written last. A folder is built
beside its place, flushed to the disk and renamed, so that a crash or a full disk leaves the
previous one as it was. It is verified when it is first read, once in a process. Nothing in it is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as tensors_to_bytes

from contrastive.config.stored import MANIFEST
from contrastive.errors import WeightsError
from contrastive.model.saved_files import (
    CHECKPOINT,
    MODEL,
    NAME,
    Listed,
    Manifest,
    check_file,
    read_json,
    shaped,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FORMAT = 2
"""Of the manifest. Format 1, of 0.1, has no number and is the mapping of files itself."""
Content = Mapping[str, Any]

_STEP = re.compile(r"\.?step-\d{8}")  # a run's checkpoint; with a dot, while it is made or removed
_verified: dict[Path, object] = {}
"""By folder, the state of its files when they last agreed with the manifest."""


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


def write_folder(folder: Path, files: Mapping[str, Content], *, keep: Collection[str] = ()) -> None:
    """Write a folder as one step: ``*.safetensors`` from tensors, ``*.json`` from plain data.

    An older folder that was written so is replaced, but for the files of it to ``keep``.

    Raises:
        WeightsError: the folder holds something else, or the disk is full or not writable; what
            was there before is untouched.
    """
    folder = folder.absolute()
    if folder.is_file():
        msg = f"{folder}: is a file; choose a new or empty folder"
        raise WeightsError(msg)
    if not (folder / MANIFEST).exists() and folder.exists() and any(folder.iterdir()):
        msg = f"{folder}: holds other things than a saved model; choose a new or empty folder"
        raise WeightsError(msg)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        listed: dict[str, dict[str, Any]] = {}
        for name, content in files.items():
            data = _encode(name, content)
            _write(building / name, data)
            listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        known = _read_manifest(folder) if keep else {}
        for name in keep:
            _link(folder / name, building / name)
            size = (building / name).stat().st_size
            listed[name] = {"bytes": size, "sha256": known[name].sha256}
        _write(building / MANIFEST, _encode(MANIFEST, {"format": FORMAT, "files": listed}))
        _flush_folder(building)
        _replace(building, folder)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        msg = f"{folder}: cannot be written: {error.strerror or error}"
        raise WeightsError(msg) from error


def remove_folder(folder: Path) -> None:
    """Delete a folder; whoever looks meanwhile sees all of it or nothing."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


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
        paths = [folder / name for name in sorted(listed)]
        for path in paths:
            check_file(path, listed[path.name].bytes)
        state = listed, [_state(path) for path in paths]
        if _verified.get(folder.absolute()) != state:
            for path in paths:
                if _sha256(path) != listed[path.name].sha256:
                    msg = f"{path}: damaged (its SHA-256 is not the manifest's); copy it again"
                    raise WeightsError(msg)
            _verified[folder.absolute()] = state
    except FileNotFoundError as error:
        msg = f"{error.filename}: no such file; is {folder} a folder that a model was saved to?"
        raise WeightsError(msg) from None
    except OSError as error:
        msg = f"{folder}: cannot be read: {_one_line(error)}"
        raise WeightsError(msg) from None
    return SavedFolder(folder, frozenset(listed))


def is_whole(folder: Path) -> bool:
    """Return whether ``folder`` is there and every file in it is as it was written."""
    try:
        open_folder(folder)
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
        raise WeightsError(msg)
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


def _encode(name: str, content: Content) -> bytes:
    if not name.endswith(".safetensors"):
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, tensor in content.items():
        here: Tensor = tensor.detach().cpu().contiguous()
        storage = here.untyped_storage().data_ptr()
        owned[key] = here.clone() if storage in storages else here  # tied weights share theirs
        storages.add(storage)
    return tensors_to_bytes(owned)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(path: Path, new: Path) -> None:
    try:
        new.hardlink_to(path)
    except OSError:  # a disk without hard links
        shutil.copyfile(path, new)


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is flushed anyway
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _set_aside(folder: Path) -> Path:
    """Rename a folder, so that nobody finds it half deleted."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    return folder.rename(doomed)


def _replace(building: Path, folder: Path) -> None:
    old = _set_aside(folder) if folder.exists() else None
    building.rename(folder)
    _flush_folder(folder.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)
