"""What is in the cache: features by encoder, indexes of files, what was fetched from elsewhere."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from contrastive.config.arguments import path_of
from contrastive.config.local_files import cache_folder, check_regular, read_bounded
from contrastive.data.storage.file_cache import DIGITS, copies_in
from contrastive.data.storage.file_locks import unused
from contrastive.errors import DataError, reason_of
from contrastive.features.key_index import is_run
from contrastive.features.parts import RECORD, names_of, part_numbers
from contrastive.features.store import ABOUT, FORMAT, MAX_ABOUT, name_of

LOCK = "lock"
INDEX = "files.sqlite"
COPIES = "files"
"""The folder of local copies: a folder for the first two digits of each name, a file for the rest.
What else is in it is of those who fetch."""
SHARDS = "shards"
"""The folder of what is noted of tar shards, a file for each."""
MODELS = "remote"
"""The folder of models that were fetched from a storage: in a folder for each address."""
OF_INDEX = (INDEX, f"{INDEX}-journal", f"{INDEX}-wal", f"{INDEX}-shm")
OF_COPIES = {"locks", "incoming", "bytes", "bytes.lock"}
MAX_WIDTH = 1 << 24  # features of a row
_STORE = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class CachedEncoder:
    """The features of one encoder."""

    folder: Path
    name: str
    """Its type, and the name of its network if it has one."""
    rows: int
    bytes: int
    last_used: float
    """Seconds since 1970."""
    outdated: str | None
    """Why nothing reads it any more; None if it is in use, or may be."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"folder": str(self.folder)}


class Copy(NamedTuple):
    """A local copy of a remote file; or what is noted of a shard. There may be millions."""

    path: str
    bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheContents:
    """What is in a cache."""

    folder: Path
    encoders: tuple[CachedEncoder, ...]
    """Those that were used last come first."""
    indexed_files: int
    """Files whose hash is noted."""
    index_bytes: int
    copies: tuple[Copy, ...]
    shards: tuple[Copy, ...]
    """Indexes of tar shards, which are made again by reading a shard."""
    models: tuple[Path, ...]
    """Fetched from a storage. Nobody knows which a process uses, so that they are never deleted."""
    model_bytes: int
    others: tuple[Path, ...]
    """What no version of this package has put there; it is left alone."""

    @property
    def bytes(self) -> int:
        """Of all but the models and the others."""
        parts = (*self.encoders, *self.copies, *self.shards)
        return self.index_bytes + sum(each.bytes for each in parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "folder": str(self.folder),
            "bytes": self.bytes,
            "encoders": [each.as_dict() for each in self.encoders],
            "index_of_files": {"files": self.indexed_files, "bytes": self.index_bytes},
            "copies_of_remote_files": {
                "files": len(self.copies),
                "bytes": sum(copy.bytes for copy in self.copies),
            },
            "indexes_of_shards": {
                "files": len(self.shards),
                "bytes": sum(shard.bytes for shard in self.shards),
            },
            "models_of_storages": {
                "folders": [str(path) for path in self.models],
                "bytes": self.model_bytes,
            },
            "others": [str(path) for path in self.others],
        }


def list_cache(folder: str | Path | None = None) -> CacheContents:
    """Return what is in the cache in ``folder``; if None, in the user's own.

    Raises:
        DataError: it is no folder, or cannot be read.

    Example:
        >>> tower = model.tower("image")
        >>> len(FeatureCache("features").table(tower.spec.encoder, tower.encoder, [red, blue]))
        2
        >>> [one] = list_cache("features").encoders
        >>> one.rows
        2
    """
    place = folder_of(folder)
    root = place / "features"
    encoders = sorted(encoder_folders(root), key=lambda each: (-each.last_used, each.name))
    index = [place / name for name in OF_INDEX]
    copies = tuple(Copy(path, size, used) for used, size, path in copies_in(place / COPIES))
    noted = [path for path in _entries(place / SHARDS) if _SHARD.fullmatch(path.name)]
    models = [each for address in _entries(place / MODELS) for each in _entries(address)]
    models = [path for path in models if path.is_dir() and not path.is_symlink()]
    others = [
        path
        for path in _entries(place)
        if path.name not in {"features", COPIES, SHARDS, MODELS} and path not in index
    ]
    stores = {each.folder for each in encoders}
    others += [path for path in _entries(root) if path not in stores]
    others += [path for each in encoders for path in strangers(each.folder)]
    others += [
        path
        for path in _entries(place / COPIES)
        if path.name not in OF_COPIES and (not DIGITS.fullmatch(path.name) or path.is_symlink())
    ]
    return CacheContents(
        place,
        tuple(encoders),
        _indexed(place / INDEX),
        sum(_about(path)[0] for path in index),
        copies,
        tuple(Copy(str(path), *_read_last(path)) for path in noted),
        tuple(models),
        sum(_about(path)[0] for model in models for path in model.rglob("*")),
        tuple(others),
    )


def folder_of(folder: str | Path | None) -> Path:
    """Return the folder of the cache that is meant.

    Raises:
        DataError: it is no folder, or there can be none.
    """
    try:
        place = cache_folder() if folder is None else path_of("folder", folder)
    except ValueError as error:
        msg = f"$CONTRASTIVE_CACHE: {error}; set it to a folder"
        raise DataError(msg) from None
    if not place.is_dir() and (folder is not None or place.exists()):
        what = "is no folder" if place.exists() else "no such folder"
        msg = f"{place}: {what}; give that of a cache, such as the one of $CONTRASTIVE_CACHE"
        raise DataError(msg)
    return place


def encoder_folders(root: Path) -> list[CachedEncoder]:
    """Return the stores in the folder of features."""
    found: list[CachedEncoder] = []
    for folder in _entries(root):
        is_store = _STORE.fullmatch(folder.name) or _has_rows(folder)
        if is_store and folder.is_dir() and not folder.is_symlink():
            found.append(_described(folder))
    return found


def _has_rows(folder: Path) -> bool:
    """Whether a folder of another name is a store: others, too, may call a file encoder.json."""
    names = (path.name for path in _entries(folder))
    return (folder / ABOUT).is_file() and bool(part_numbers(names))


def is_ours(name: str) -> bool:
    """Whether a file in a store's folder has the name of one of its files."""
    return name in {ABOUT, LOCK, f".{ABOUT}.tmp"} or is_run(name) or bool(part_numbers([name]))


def strangers(folder: Path) -> list[Path]:
    """Return what is in a store's folder and not of it."""
    return [path for path in _entries(folder) if not is_ours(path.name)]


def in_use(folder: Path) -> bool:
    """Whether a process uses a store, or that cannot be known."""
    with unused(folder / ABOUT) as free:
        return not free and (folder / ABOUT).exists()


def description_of(folder: Path) -> dict[str, Any]:
    """Return what describes the encoder of a store.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no description.
    """
    try:
        about: Any = json.loads(read_bounded(folder / ABOUT, MAX_ABOUT))
        is_its = isinstance(about, dict) and name_of(cast("Any", about)) == folder.name
    except RecursionError:
        about, is_its = None, False
    if not is_its:
        msg = "is not the description of this folder's encoder"
        raise ValueError(msg)
    found = cast("dict[str, Any]", about)
    width = found.get("out_dim")
    if not isinstance(width, int) or not 0 < width < MAX_WIDTH:
        msg = "has no out_dim, the number of features of a row"
        raise ValueError(msg)
    return found


def _described(folder: Path) -> CachedEncoder:
    sizes = [_about(path) for path in _entries(folder) if is_ours(path.name)]
    size, used = sum(each[0] for each in sizes), max((each[1] for each in sizes), default=0.0)
    name, outdated = "?", None
    try:
        about = description_of(folder)
        name = _name(about.get("spec"))
        form = about.get("format")
        if not isinstance(form, int) or form < FORMAT:
            outdated = f"of an earlier version (format {form}, now {FORMAT})"
    except (OSError, ValueError) as error:
        outdated = f"{ABOUT}: {reason_of(error)}"
    rows = sum(
        _about(folder / names_of(number)[1])[0] // RECORD.itemsize
        for number in part_numbers(path.name for path in _entries(folder))
    )
    return CachedEncoder(folder, name, rows, size, used, outdated)


def _name(spec: Any) -> str:
    """Return what a spec is called, by its type and the names that it has."""
    if not isinstance(spec, dict):
        return "?"
    fields = cast("dict[str, Any]", spec)
    words = [fields.get(name) for name in ("type", "name", "architecture", "weights")]
    told = " ".join(word for word in words if isinstance(word, str) and word)
    return told[:100] or "?"


def _indexed(path: Path) -> int:
    """Return how many files the index has noted; 0 if it cannot be read."""
    with suppress(OSError, sqlite3.Error):
        check_regular(path)
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            return int(database.execute("select count(*) from files").fetchone()[0])
    return 0


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it is none, or not to be read."""
    with suppress(OSError):
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    return []


def _read_last(path: Path) -> tuple[int, float]:
    """Return the size of a file that is not touched when it is used, and when it was read last."""
    size, used = _about(path)
    with suppress(OSError):
        used = max(used, path.lstat().st_atime)  # which most disks note once a day
    return size, used


def _about(path: Path) -> tuple[int, float]:
    """Return the size of a regular file and when it was used last."""
    with suppress(OSError):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode):
            return about.st_size, about.st_mtime
    return 0, 0.0
