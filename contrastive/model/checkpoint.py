"""Folders of weights that are either whole or not there.

A folder holds safetensors and JSON, and a ``manifest.json`` with the size and SHA-256 of each file,
written last. It is built beside its place, flushed to the disk and renamed, so that a crash or
a full disk leaves the previous one as it was. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from contrastive.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
Content = Mapping[str, Any]


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write a folder as one step: ``*.safetensors`` from tensors, ``*.json`` from plain data.

    An older folder that was written so is replaced.

    Raises:
        WeightsError: the folder holds something else, or the disk is full or not writable; what
            was there before is untouched.
    """
    folder = folder.absolute()
    if not (folder / MANIFEST).exists() and folder.exists() and any(folder.iterdir()):
        msg = f"{folder}: holds other things than a saved model; choose a new or empty folder"
        raise WeightsError(msg)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        manifest: dict[str, dict[str, Any]] = {}
        for name, content in files.items():
            data = _encode(name, content)
            _write(building / name, data)
            manifest[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        _write(building / MANIFEST, _encode(MANIFEST, manifest))
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


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder, checked against its manifest.

    Raises:
        WeightsError: it is not there, not whole or not what was written; names the file.
    """
    try:
        manifest: dict[str, Any] = dict(json.loads((folder / MANIFEST).read_bytes()))
        files = {name: (folder / name).read_bytes() for name in manifest if Path(name).name == name}
    except FileNotFoundError as error:
        msg = f"{error.filename}: no such file; is {folder} a folder that a model was saved to?"
        raise WeightsError(msg) from None
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder}: cannot be read: {' '.join(str(error).split())}"
        raise WeightsError(msg) from None
    for name, data in files.items():
        about = manifest[name]
        sha256 = about.get("sha256") if isinstance(about, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if hashlib.sha256(data).hexdigest() != sha256:
            msg = f"{folder / name}: damaged (its SHA-256 is not the manifest's); copy it again"
            raise WeightsError(msg)
    return files


def is_whole(folder: Path) -> bool:
    """Return whether ``folder`` is there and every file in it is as it was written."""
    try:
        read_folder(folder)
    except WeightsError:
        return False
    return True


def tensors(files: dict[str, bytes], name: str, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of one file of a folder.

    Raises:
        WeightsError: the file is not in the folder, or is not safetensors.
    """
    try:
        return tensors_from_bytes(files[name])
    except (KeyError, SafetensorError) as error:
        msg = f"{folder / name}: not a safetensors file: {' '.join(str(error).split())}"
        raise WeightsError(msg) from None


def plain(files: dict[str, bytes], name: str, folder: Path) -> Any:
    """Return the plain data of one JSON file of a folder.

    Raises:
        WeightsError: the file is not in the folder, or is not JSON.
    """
    try:
        return json.loads(files[name])
    except (KeyError, ValueError, RecursionError) as error:
        msg = f"{folder / name}: not a JSON file: {' '.join(str(error).split())}"
        raise WeightsError(msg) from None


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
