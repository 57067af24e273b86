"""Tar files with samples, on this machine or in a storage, and the images in them.

A shard is known by its size and what tells its versions apart. What is read is of that version, or
nothing: that a file was changed is told.

Shapes: M images of a table, N of them that are asked for, S shards.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contrastive.config.local_files import ADDRESS, cache_folder, too_large
from contrastive.data.column_kinds import StoredImages, through_shared_memory
from contrastive.data.content_index import PartsOfFile
from contrastive.data.images import MAX_BYTES, StoredImage
from contrastive.data.storage.file_cache import file_cache
from contrastive.data.storage.remote_folders import StorageError, remote_folder
from contrastive.data.tar_members import header_within
from contrastive.errors import BadSample, DataError, reason_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from io import BufferedReader

CHANGED = "has changed since its members were noted; start again, which notes them anew"


@dataclass(frozen=True)
class Shard:
    """A version of a tar file."""

    place: str
    """Its path or its address."""
    size: int
    version: str
    """Of a local file, when it was changed; else what its storage says, which may be nothing."""
    cache_bytes: int = 0
    """What copies of remote files may have together."""
    digest: str = ""
    """SHA-256 of a remote one, if it is known."""

    @property
    def is_remote(self) -> bool:
        """Whether it lies in a storage."""
        return bool(ADDRESS.match(self.place))

    @property
    def identity(self) -> str:
        """What tells it from others, and from its other versions."""
        return f"{self.place}\n{self.size}\n{self.version}"

    @contextmanager
    def opened(self) -> Generator[BufferedReader]:
        """Open it for a block; of a remote one, the copy, which is fetched if there is none.

        Raises:
            DataError: it is not there, or has changed.
            StorageError: it cannot be fetched, or has changed.
        """
        if self.is_remote:
            files = file_cache(self.cache_bytes)
            with files.opened(self.identity, self._fetch, size=self.size, name=self.place) as file:
                yield file
            return
        with self._in_one_line():
            file = open(self.place, "rb")  # noqa: PTH123, SIM115 - faster than a Path; closed below
        with file:
            self._check(os.fstat(file.fileno()))
            yield file

    def check(self) -> None:
        """Look whether a local one is as it was.

        Raises:
            DataError: it is not there, or has changed.
        """
        if not self.is_remote:
            with self._in_one_line():
                about = Path(self.place).stat()
            self._check(about)

    @contextmanager
    def _in_one_line(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            msg = f"{self.place}: cannot be read: {reason_of(error)}"
            raise DataError(msg) from None

    def _check(self, about: os.stat_result) -> None:
        if (about.st_size, str(about.st_mtime_ns)) != (self.size, self.version):
            msg = f"{self.place}: {CHANGED}"
            raise DataError(msg)

    def _fetch(self, path: Path) -> None:
        folder, _, name = self.place.rpartition("/")
        storage = remote_folder(folder)
        problem = None
        try:
            storage.get(name, path, size=self.size, whole=True)
        except StorageError as error:
            problem = error
        about = storage.about(name)  # afterwards: what came before it changed is of this version
        if about is not None and (about.size, about.version) != (self.size, self.version):
            msg = f"{self.place}: {CHANGED}"
            raise StorageError(msg)
        if problem:
            raise problem
        with path.open("rb") as file:
            if self.digest not in ("", hashlib.file_digest(file, "sha256").hexdigest()):
                what = "other bytes than before came, though the storage tells of no change"
                notes = cache_folder() / "shards"
                msg = f"{self.place}: {what}; remove {notes}, and start again"
                raise StorageError(msg)


@dataclass(frozen=True)
class TarImage(StoredImage):
    """An image in a shard."""

    shard: Shard
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            BadSample: it is too large, or runs over the member behind it.
            DataError: the shard is not there, or has changed.
            StorageError: it cannot be fetched, or has changed.
        """
        if self.length > MAX_BYTES:
            raise BadSample(too_large(self.length, MAX_BYTES))
        with self.shard.opened() as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) < self.length:
            msg = f"{self.shard.place}: {CHANGED}"
            raise DataError(msg)
        if other := header_within(content):
            msg = f"the length in its header is wrong: it runs over {other}, which is lost"
            raise BadSample(msg)
        return content

    def __str__(self) -> str:
        return f"{self.shard.place}, byte {self.offset}"

    @property
    def file_part(self) -> PartsOfFile:
        """Which part of which file it is."""
        return _parts(self.shard, np.array([self.offset], np.int64))


@dataclass(eq=False)
class TarImages(StoredImages):
    """Images in shards, M together, in the order of the shards."""

    shards: tuple[Shard, ...]
    firsts_S: np.ndarray
    """The number of the first image of each shard."""
    offsets_M: np.ndarray
    lengths_M: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets_M)

    def shards_of(self, rows_N: np.ndarray) -> np.ndarray:
        """Return the number of each row's shard."""
        return np.searchsorted(self.firsts_S, rows_N, side="right") - 1

    def at(self, rows_N: np.ndarray) -> list[TarImage]:
        """Return some images, of which nothing is read."""
        numbers: list[int] = self.shards_of(rows_N).tolist()
        spans = zip(self.offsets_M[rows_N].tolist(), self.lengths_M[rows_N].tolist(), strict=True)
        return [
            TarImage(self.shards[number], offset, length)
            for number, (offset, length) in zip(numbers, spans, strict=True)
        ]

    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[np.ndarray, PartsOfFile]]:
        """Yield, by shard, which of N rows are in it, and where in it they lie."""
        shards_N = self.shards_of(rows_N)
        order_N = np.argsort(shards_N, kind="stable")
        ends = np.diff(shards_N[order_N], append=-1).nonzero()[0] + 1
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False):
            which = order_N[start:end]
            shard = self.shards[int(shards_N[which[0]])]
            yield which, _parts(shard, self.offsets_M[rows_N[which]])


def _parts(shard: Shard, offsets_K: np.ndarray) -> PartsOfFile:
    shard.check()  # else what is noted of another version could be taken
    version = f"{shard.size} {shard.version} {shard.digest}" if shard.is_remote else ""
    return PartsOfFile(shard.place, "bytes", offsets_K, version)


ForkingPickler.register(TarImages, through_shared_memory)
