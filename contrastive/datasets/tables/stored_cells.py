"""Images in the rows of tables: each process opens a file for itself, and reads one when needed.

It holds the images of the last row groups that it read.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from contrastive.data.column_kinds import StoredImages
from contrastive.data.content_index import PartsOfFile, version_of
from contrastive.data.images import StoredImage
from contrastive.datasets.tables.arrow_files import open_arrow
from contrastive.errors import BadSample, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.datasets.tables.arrow_files import ArrowFile

OPEN_FILES = 64  # in a process
HELD_BYTES = 32_000_000  # of images in row groups that were read, in a process
KEPT_CELLS = 1 << 12  # so that the captions of an image have one object


@dataclass
class _Opened:
    """What one process has opened and read last."""

    pid: int

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.files: OrderedDict[tuple[str, str], ArrowFile] = OrderedDict()
        self.groups: OrderedDict[tuple[str, str, str, int], tuple[Any, int]] = OrderedDict()

    def cell(self, image: StoredCell) -> Any:
        with self.lock:
            file = self._file(image.file, image.version)
            number = int(file.ends_G.searchsorted(image.row, side="right"))
            key = (image.file, image.version, image.column, number)
            if key not in self.groups:
                group = file.group(number, image.column)
                self.groups[key] = group, group.get_total_buffer_size()
                while len(self.groups) > 1 and self._size() > HELD_BYTES:
                    self.groups.popitem(last=False)
            self.groups.move_to_end(key)
            start = int(file.ends_G[number - 1]) if number else 0
            return self.groups[key][0][image.row - start].as_py()

    def _size(self) -> int:
        return sum(size for _, size in self.groups.values())

    def _file(self, path: str, version: str) -> ArrowFile:
        if version_of(path) != version:  # of a file that is mapped, what is gone cannot be read
            msg = "has changed since its rows were read; start again"
            raise OSError(errno.ESTALE, msg, path)
        key = path, version
        if key not in self.files:
            self.files[key] = open_arrow(Path(path))
            while len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)
        self.files.move_to_end(key)
        return self.files[key]


_opened = _Opened(-1)


@dataclass(frozen=True)
class StoredCell(StoredImage):
    """The image in one row of a table."""

    file: str
    version: str
    """Of the file when its rows were read."""
    column: str
    row: int
    place: str = field(compare=False)
    """For messages."""

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            BadSample: the cell is empty.
            OSError: the file cannot be read, or has changed.
        """
        global _opened  # noqa: PLW0603 -- a process that was forked opens its own
        if _opened.pid != os.getpid():
            _opened = _Opened(os.getpid())
        try:
            found = _opened.cell(self)
        except (DataError, ValueError, IndexError, KeyError) as error:
            raise OSError(
                errno.EIO, f"cannot be read: {' '.join(str(error).split())[:200]}"
            ) from error
        if isinstance(found, dict):
            found = cast("dict[str, Any]", found).get("bytes")
        if not found:
            msg = f"{self.place}: {self.column!r} holds no image"
            raise BadSample(msg)
        return cast("bytes", found)

    @property
    def file_part(self) -> PartsOfFile:
        """Which row of which column it is."""
        return PartsOfFile(self.file, f"rows of {self.column}", np.array([self.row]))

    def __str__(self) -> str:
        return self.place


@dataclass(eq=False)
class StoredCells(StoredImages):
    """The images of all rows of some tables, which take no memory until they are read."""

    files: tuple[str, ...]
    versions: tuple[str, ...]
    columns: tuple[str, ...]
    places: tuple[str, ...]
    """What the place of a row begins with, by file."""
    starts_F: np.ndarray
    """The first row of each file, and the number of all."""

    def __post_init__(self) -> None:
        self._kept: dict[int, StoredCell] = {}

    def __len__(self) -> int:
        return int(self.starts_F[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.files, self.versions, self.columns, self.places, self.starts_F)
        return StoredCells, fields

    def at(self, rows_N: np.ndarray) -> list[StoredImage]:
        """Return the images of some rows, of one row one object."""
        if len(self._kept) + len(rows_N) > KEPT_CELLS:
            self._kept.clear()
        found: list[StoredImage] = []
        files_N = np.searchsorted(self.starts_F, rows_N, side="right") - 1
        pairs: list[tuple[int, int]] = [*zip(rows_N.tolist(), files_N.tolist(), strict=True)]
        for row, file in pairs:
            if not (cell := self._kept.get(row)):
                number = row - int(self.starts_F[file])
                about = self.files[file], self.versions[file], self.columns[file], number
                cell = StoredCell(*about, f"{self.places[file]}{number}")
                self._kept[row] = cell
            found.append(cell)
        return found

    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[np.ndarray, PartsOfFile]]:
        """Yield, by file, which of N rows are in it, and which rows of it they are."""
        files_N = np.searchsorted(self.starts_F, rows_N, side="right") - 1
        for file in np.unique(files_N).tolist():
            which = (files_N == file).nonzero()[0]
            numbers = rows_N[which].astype(np.int64) - self.starts_F[file]
            yield which, PartsOfFile(self.files[file], f"rows of {self.columns[file]}", numbers)
