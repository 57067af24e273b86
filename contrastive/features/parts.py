"""The files of a store: parts of a bounded size, each a file of features and one of keys.

``features.bin`` and ``keys.bin`` are the first part, ``features-00001.bin`` and
``keys-00001.bin`` the next. A row is ``4 F`` bytes of fp32; a key is a record of 36 bytes: SHA-256
of the sample, CRC-32 of its features. Only the last part grows.

Shapes: M rows of a part, F features, K locations.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from contrastive.config.local_files import check_regular

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

KEY_BYTES = 32
RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4")])
PART_BYTES = 1 << 32
"""Of features, after which the next part begins; one that is larger is of an earlier release. A map
holds a file open, of which a process may have 1,024: 100 million rows of 2,048 take 191."""
ROW_BITS = 40
"""A location is a part's number, and in so many low bits the row in it."""
_NAME = re.compile(r"(?:features|keys)(?:-([0-9]{5}))?\.bin")


def names_of(number: int) -> tuple[str, str]:
    """Return the names of a part's files: of features, of keys."""
    suffix = f"-{number:05}" if number else ""
    return f"features{suffix}.bin", f"keys{suffix}.bin"


def part_numbers(names: Iterable[str]) -> list[int]:
    """Return which parts there are, by the names in a folder."""
    found = (_NAME.fullmatch(name) for name in names)
    return sorted({int(match[1] or 0) for match in found if match})


def location_of(part: int, row: int) -> int:
    """Return where a row is."""
    return part << ROW_BITS | row


def split_locations(locations_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts and the rows in them."""
    return locations_K >> ROW_BITS, locations_K & ((1 << ROW_BITS) - 1)


def split_location(location: int) -> tuple[int, int]:
    """Return the part and the row in it of one location."""
    return location >> ROW_BITS, location & ((1 << ROW_BITS) - 1)


class Parts:
    """The parts of one encoder, memory-mapped as they are asked for."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.width = width
        self._features: dict[int, np.ndarray] = {}
        self._keys: dict[int, np.ndarray] = {}

    def numbers(self) -> list[int]:
        """Return which parts there are."""
        return part_numbers(os.listdir(self.folder))  # noqa: PTH208  (a path for each takes long)

    def rows(self, part: int) -> int:
        """Return how many rows of a part have features and a key.

        Raises:
            OSError: a file of it is a pipe, or cannot be read.
        """
        keys = self.count_keys(part)  # first: another process may be adding rows
        return min(keys, self._count(part, 0, 4 * self.width))

    def count_keys(self, part: int) -> int:
        """Return how many rows of a part have a key, with features or not."""
        return self._count(part, 1, RECORD.itemsize)

    def features(self, part: int, rows: int = 0) -> np.ndarray:
        """Return the features of a part ``[M, F]``: at least so many rows, if there are.

        It is a plain array over the memory map: a row of a ``memmap`` takes three times as long.
        """
        if part not in self._features or len(self._features[part]) < rows:
            self._features[part] = self._mapped(part, 0, np.dtype((np.float32, (self.width,))))
        return self._features[part]

    def records(self, part: int, rows: int = 0) -> np.ndarray:
        """Return the keys and checksums of a part ``[M]``: at least so many rows, if there are."""
        if part not in self._keys or len(self._keys[part]) < rows:
            self._keys[part] = self._mapped(part, 1, RECORD)
        return self._keys[part]

    def read_records(self, part: int, begin: int, end: int) -> np.ndarray:
        """Return some of a part's records, read into memory."""
        path = self.folder / names_of(part)[1]
        return np.fromfile(path, RECORD, end - begin, offset=begin * RECORD.itemsize)

    def close_keys(self) -> None:
        """Drop the maps of keys, which are needed only while some are looked up."""
        self._keys.clear()

    def _mapped(self, part: int, which: int, row: np.dtype) -> np.ndarray:
        if not (rows := self._count(part, which, row.itemsize)):
            return np.zeros(0, row)
        path = self.folder / names_of(part)[which]
        try:
            return np.asarray(np.memmap(path, row.base, "r", shape=(rows, *row.shape)))
        except ValueError:  # it is shorter than a moment ago
            raise OSError(errno.EIO, "was cut off meanwhile", str(path)) from None

    def _count(self, part: int, which: int, row_bytes: int) -> int:
        path = self.folder / names_of(part)[which]
        with suppress(FileNotFoundError), opened(path, os.O_RDONLY):
            return check_regular(path) // row_bytes
        return 0


@contextmanager
def opened(path: Path, how: int) -> Generator[int]:
    """Open a file in a block, without waiting for one that is a pipe.

    On a network disk a file's size is known for sure when it has been opened.
    """
    how |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, how, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
