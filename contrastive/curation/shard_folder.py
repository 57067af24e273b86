"""Where shards are written: a local folder or one of a storage; each file is there whole.

What is done is noted in ``shards.partial.json`` after each shard, in ``shards.json`` at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from contrastive.config.arguments import address_in, path_of
from contrastive.console import say
from contrastive.data.storage.atomic_files import flush_folder, replace_file
from contrastive.data.storage.file_locks import locked
from contrastive.data.storage.folders import check_writable_folder, named_file
from contrastive.data.storage.remote_folders import RemoteFolder, remote_folder
from contrastive.datasets.shards.lists import UNFINISHED
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator

MANIFEST, PARTIAL = "shards.json", UNFINISHED
LOCK = ".contrastive.lock"
BUILDING = "contrastive-shards-"
"""How folders begin where shards for a storage are built, in that of temporary files."""
MOST_BYTES = 1 << 28  # of a manifest: a million shards


class ShardFolder(ABC):
    """A folder for shards."""

    name: str
    """As it is shown."""

    @abstractmethod
    def names(self) -> set[str]:
        """Return what is in it."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None if it is not there."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Replace a small file."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    @contextmanager
    def building(self, name: str) -> Generator[Path]:
        """Yield a path to write to; what is there at the end of the block goes to its place."""
        yield Path()

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return a manifest, if there is one.

        Raises:
            DataError: it cannot be read.
        """
        content = self.read(name)
        if content is None:
            return None
        with suppress(ValueError, RecursionError):
            found: Any = json.loads(content)
            if isinstance(found, dict):
                return cast("dict[str, Any]", found)
        msg = f"{self.name}/{name}: is damaged; write to another folder"
        raise DataError(msg)


class LocalShards(ShardFolder):
    """A folder on a disk."""

    def __init__(self, path: Path) -> None:
        """Take a folder, which need not be there yet.

        Raises:
            DataError: it is none, or nothing can be written to it.
        """
        check_writable_folder(path, what="shards")
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.name = path, str(path)

    def names(self) -> set[str]:
        """Return what is in it."""
        return {path.name for path in self.path.iterdir()} - {LOCK}

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None if it is not there."""
        with suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file."""
        with named_file(self.path / name):
            replace_file(self.path / name, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def building(self, name: str) -> Generator[Path]:
        """Yield a path to write to; what is there at the end of the block goes to its place."""
        path = self.path / f".{name}.tmp"
        try:
            yield path
            if path.exists():
                with named_file(path), path.open("rb+") as file:
                    os.fsync(file.fileno())
                path.replace(self.path / name)
                flush_folder(self.path)
        finally:
            path.unlink(missing_ok=True)


class RemoteShards(ShardFolder):
    """A folder of a storage; each shard is built on a local disk first."""

    def __init__(self, address: str) -> None:
        """Take an address.

        Raises:
            StorageError: no library knows such addresses.
            MissingExtra: the one that does is not installed.
        """
        self.remote: RemoteFolder = remote_folder(address)
        self.name = address
        _sweep()

    def names(self) -> set[str]:
        """Return what is in it."""
        return {*self.remote.entries()}

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None if it is not there."""
        return self.remote.read(name, MOST_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file."""
        with self.building(name) as path:
            path.write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self.remote.remove(name)

    @contextmanager
    def building(self, name: str) -> Generator[Path]:
        """Yield a path to write to; what is there at the end of the block goes to its place."""
        folder = Path(tempfile.mkdtemp(prefix=BUILDING))
        try:
            with locked(folder / LOCK, wait=0):  # as long as this process lives
                yield folder / name
                if (folder / name).exists():
                    self.remote.put(folder / name, name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove the shards of processes that were killed before they had sent them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{BUILDING}*"):
        with suppress(OSError):  # it is somebody else's, or in use
            if (folder / LOCK).is_file() and not folder.is_symlink():
                with locked(folder / LOCK, wait=0):
                    shutil.rmtree(folder)


@contextmanager
def opened_folder(output: Any) -> Generator[ShardFolder]:
    """Open the folder that an argument names, for this process alone if it is local.

    Raises:
        DataError: nothing can be written there, or another process writes there.
        SpecError: it is no path, or an address with a password.
    """
    if address := address_in("output", output):
        yield RemoteShards(address)
        return
    folder = LocalShards(path_of("output", output))
    lock = folder.path / LOCK
    try:
        with locked(lock, wait=0):
            try:
                yield folder
            finally:
                lock.unlink(missing_ok=True)
    except TimeoutError:
        msg = f"{folder.name}: another process writes shards here; wait for it"
        raise DataError(msg) from None


def begun(folder: ShardFolder, about: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return what is noted of a folder for such shards, or a new beginning; and whether it is done.

    Raises:
        DataError: it holds something else.
    """
    there = folder.names()
    for name in (MANIFEST, PARTIAL):
        if (state := folder.manifest(name)) is None:
            continue
        if other := [key for key in about if state.get(key) != about[key]]:
            remedy = "write to another folder"
            what = f"of other data; {remedy}"
            if "format" in other:
                what = f"of another release; {remedy}"
            elif "data" not in other:
                were = ", ".join(f"{key}={state.get(key)}" for key in other)
                what = f"made with {were}; give the same, or {remedy}"
            msg = f"{folder.name}: holds shards {what}"
            raise DataError(msg)
        lost = [shard["name"] for shard in state["shards"] if shard["name"] not in there]
        if lost:
            say(f"{folder.name}: {min(lost)} is gone; it and those after it are written again")
            state["shards"] = [
                shard
                for shard in state["shards"]
                if not any(x <= shard["name"] for x in lost if _split(x) == shard["split"])
            ]
        elif name == PARTIAL and state["shards"]:
            say(f"{folder.name}: going on after {len(state['shards'])} shards")
        return state, name == MANIFEST and not lost
    if there:
        what = f"{folder.name}: holds {min(there)}, and no {MANIFEST}"
        msg = f"{what}; give a folder that is empty"
        raise DataError(msg)
    return {**about, "splits": {}, "shards": []}, False


def _split(shard: str) -> str:
    return unquote(shard.rpartition("-")[0])


def note(folder: ShardFolder, state: dict[str, Any], *, done: bool = False) -> None:
    """Write down what is done."""
    document = json.dumps(state, indent=1, sort_keys=True, ensure_ascii=False)
    folder.write(MANIFEST if done else PARTIAL, document.encode("utf-8", "surrogatepass"))
    if done:
        folder.remove(PARTIAL)
