"""Saved folders and runs of a storage, fetched and verified by their manifests.

``manifest.json`` is sent last there, so that a folder without it is none. Only files that it lists
and that a model has by name are fetched.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from contrastive.config.arguments import address_in, path_of
from contrastive.config.local_files import cache_folder
from contrastive.console import say
from contrastive.data.storage.atomic_files import BUILT, beside, discard, put
from contrastive.data.storage.file_locks import locked
from contrastive.data.storage.remote_folders import (
    CHECK_STORAGE,
    RemoteFolder,
    StorageError,
    remote_folder,
)
from contrastive.errors import SpecError, WeightsError
from contrastive.model.run_checkpoints import checkpoints_of, step_in
from contrastive.model.saved_files import NAME, Listed, Manifest, read_json, shaped
from contrastive.model.saved_folder import MANIFEST, is_whole, recover, remove_folder

if TYPE_CHECKING:
    from pathlib import Path

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
WAIT = 3600.0  # seconds for another process that fetches the same; a model may be large


def local_folder(name: str, given: Any) -> Path:
    """Return the folder that an argument names; that of a storage is fetched into the cache.

    Raises:
        SpecError: it is no path, or an address with a password.
        WeightsError: there is no model at the address, or it cannot be fetched.
    """
    address = address_in(name, given)
    return fetched(address) if address else path_of(name, given)


def fetched(address: str) -> Path:
    """Return a local copy of a saved model, a checkpoint or a run of a storage.

    Of a run these are its model, or else its newest whole checkpoint, and its log. What the cache
    has already is not fetched again.

    Raises:
        WeightsError: there is none, or it cannot be fetched.
    """
    name = address.rpartition("/")[2] or "model"
    try:
        place = cache_folder() / "remote" / short_hash(address) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent / ".lock", wait=WAIT):
            _fetch(remote_folder(address), place)
    except ValueError as error:
        msg = f"$CONTRASTIVE_CACHE: {error}"
        raise SpecError(msg) from None
    except StorageError as error:
        msg = f"{error}; {CHECK_STORAGE}"
        raise WeightsError(msg) from error
    except OSError as error:
        where = error.filename or address
        msg = f"{where}: {error.strerror}; set CONTRASTIVE_CACHE to another folder"
        raise WeightsError(msg) from error
    return place


def short_hash(address: str) -> str:
    """Return what tells two addresses with one last name apart."""
    return hashlib.sha256(address.encode()).hexdigest()[:8]


def _fetch(remote: RemoteFolder, place: Path) -> None:
    entries = remote.entries()
    nothing = f"{remote.address}: no whole model here; give the address of a run or a saved model"
    if MANIFEST in entries or not entries:
        if not fetch_folder(remote, place, listed=bool(entries)):
            raise WeightsError(nothing)
        return
    _drop(place)
    if not ("model" in entries and fetch_folder(remote / "model", place / "model")):
        newest, _ = fetch_checkpoint(remote, place)
        if newest is None:
            raise WeightsError(nothing)
        for path in [*checkpoints_of(place), place / "model"]:  # of an earlier call
            if path != newest:
                _drop(path)
    if LOG in entries:
        fetch_file(remote, LOG, place / LOG)


def _drop(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        remove_folder(folder)


def fetch_checkpoint(
    remote: RemoteFolder, run: Path, *, after: int = -1
) -> tuple[Path | None, list[str]]:
    """Fetch the newest whole checkpoint of a run, if it is of a later step than ``after``.

    Returns:
        Its folder, and the names of those that are damaged or were not sent whole; each is told.
    """
    found = ((step_in(name), name) for name in (remote / CHECKPOINTS).entries())
    steps = sorted(((step, name) for step, name in found if step is not None), reverse=True)
    damaged: list[str] = []
    for step, name in steps:
        if step <= after:
            break
        place = run / CHECKPOINTS / name
        if fetch_folder(remote / CHECKPOINTS / name, place):
            return place, damaged
        damaged.append(name)
    return None, damaged


def fetch_folder(remote: RemoteFolder, place: Path, *, listed: bool = True) -> bool:
    """Fetch a saved folder, unless ``place`` has it; return whether it is there now.

    One that is damaged or was not sent whole is told, and leaves ``place`` as it is. Not every
    storage lists what it has (``listed``).
    """
    sizes = remote.entries()
    if listed and MANIFEST not in sizes:
        say(f"{remote.address}: was not sent whole; it is left out")
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    building = beside(place, BUILT)
    building.mkdir()
    files: dict[str, Listed] = {}
    try:
        remote.get(MANIFEST, building / MANIFEST, size=sizes.get(MANIFEST) or 0)
        files = listed_files(building)
        if _has(place, building / MANIFEST):
            return True
        own = {name: about for name, about in files.items() if "/" not in name}
        if listed and any(sizes.get(name) != about.bytes for name, about in own.items()):
            say(f"{remote.address}: damaged (a file lacks, or is of another size); it is left out")
            return False
        for name, about in files.items():
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            remote.get(name, building / name, size=about.bytes)
        if not is_whole(building):
            say(f"{remote.address}: damaged (it is not what its manifest says); it is left out")
            return False
        put(building, place)
    except WeightsError:
        say(f"{remote.address}: damaged (its manifest cannot be read); it is left out")
        return False
    finally:
        if building.exists():
            discard(building, files, last=MANIFEST)
    recover(place)  # removes what was there
    return True


def _has(place: Path, manifest: Path) -> bool:
    known = place / MANIFEST
    return known.exists() and known.read_bytes() == manifest.read_bytes() and is_whole(place)


def listed_files(folder: Path) -> dict[str, Listed]:
    """Return the files that the manifest of a folder lists, by names that a model has."""
    path = folder / MANIFEST
    manifest: Manifest = shaped(Manifest, read_json(path), path)
    return {name: about for name, about in manifest.files.items() if NAME.fullmatch(name)}


def fetch_file(remote: RemoteFolder, name: str, place: Path) -> None:
    """Fetch a file; what was in its place stays until it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    building = place.with_name(f".{place.name}{BUILT}")
    try:
        remote.get(name, building)
        building.replace(place)
    finally:
        building.unlink(missing_ok=True)
