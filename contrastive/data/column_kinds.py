"""The kinds of columns: texts in one buffer, numbers, files, and values that many rows have alike.

Shapes: M rows of a table, N of them that are asked for, D distinct values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from contrastive.data.content_index import PartsOfFile

BYTES = 1 << 20  # that are looked through at once
KEPT_PATHS = 1 << 16  # so that the captions of an image have one object


@dataclass(eq=False)
class Column(ABC):
    """M values."""

    @abstractmethod
    def __len__(self) -> int:
        """Return M."""

    @abstractmethod
    def at(self, rows_N: np.ndarray) -> list[Any]:
        """Return the values of some rows; None for a row that has none."""


@dataclass(eq=False)
class Strings(Column):
    """Texts in one buffer, as UTF-8."""

    buffer: np.ndarray
    ends_M: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """Return a column of texts."""
        builder = StringsBuilder()
        builder.extend([*texts])
        return builder.built()

    def __len__(self) -> int:
        return len(self.ends_M)

    def at(self, rows_N: np.ndarray) -> list[str]:
        """Return some texts."""
        view = self.buffer.data
        starts = np.where(rows_N > 0, self.ends_M[rows_N - 1], 0).tolist()
        spans = zip(starts, self.ends_M[rows_N].tolist(), strict=True)
        return [str(view[a:b], "utf-8", "surrogatepass") for a, b in spans]

    def having(self, letters: str) -> np.ndarray:
        """Return the rows whose texts have one of some letters of ASCII, without making them."""
        wanted, found = np.frombuffer(letters.encode(), np.uint8), [np.empty(0, np.int64)]
        for first in range(0, len(self.buffer), BYTES):
            part = np.isin(self.buffer[first : first + BYTES], wanted)
            found.append(np.searchsorted(self.ends_M, part.nonzero()[0] + first, side="right"))
        return np.unique(np.concatenate(found))


class StringsBuilder:
    """Gathers texts."""

    def __init__(self) -> None:
        self.buffer, self.sizes = bytearray(), bytearray()
        self.rows = 0

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts."""
        joined = "".join(texts)
        if joined.isascii():
            sizes = np.fromiter(map(len, texts), np.uint32, len(texts))
            content = joined.encode("ascii")
        else:
            several = [text.encode("utf-8", "surrogatepass") for text in texts]
            sizes = np.fromiter(map(len, several), np.uint32, len(texts))
            content = b"".join(several)
        self.extend_encoded(content, sizes)

    def extend_encoded(self, content: bytes | memoryview, sizes: np.ndarray) -> None:
        """Add texts in UTF-8 that follow each other, by their sizes in bytes."""
        self.sizes += sizes.astype(np.uint32).tobytes()
        self.buffer += content
        self.rows += len(sizes)

    def so_far(self) -> Strings:
        """Return a column of what is gathered so far, which lets nothing be added while it is."""
        sizes = np.frombuffer(self.sizes, np.uint32)
        return Strings(np.frombuffer(self.buffer, np.uint8), np.cumsum(sizes, dtype=np.int64))

    def built(self) -> Strings:
        """Return the column; 32 bits hold the ends of up to 4 GB."""
        sizes = np.frombuffer(self.sizes, np.uint32)
        if len(self.buffer) < 1 << 32:
            ends = np.cumsum(sizes, dtype=np.uint32, out=sizes)  # over the sizes
        else:
            ends = np.cumsum(sizes, dtype=np.int64)
        return Strings(np.frombuffer(self.buffer, np.uint8), ends)


@dataclass(eq=False)
class Integers(Column):
    """Whole numbers of up to 64 bits."""

    numbers_M: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers_M)

    def at(self, rows_N: np.ndarray) -> list[int]:
        """Return some numbers."""
        return self.numbers_M[rows_N].tolist()


@dataclass(eq=False)
class RowNumbers(Column):
    """The number of each row, which takes no memory."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    def at(self, rows_N: np.ndarray) -> list[int]:
        """Return the rows."""
        return rows_N.tolist()


@dataclass(eq=False)
class Coded(Column):
    """Values of which several rows have the same: which of the distinct ones each row has.

    A row with the code -1 has none.
    """

    values: Column
    codes_M: np.ndarray

    def __len__(self) -> int:
        return len(self.codes_M)

    def at(self, rows_N: np.ndarray) -> list[Any]:
        """Return some values; rows with one code have one object."""
        codes_N = self.codes_M[rows_N]
        distinct_D, which_N = np.unique(codes_N, return_inverse=True)
        held = distinct_D >= 0
        found = [None] * int((~held).sum()) + self.values.at(distinct_D[held])
        return [found[i] for i in which_N.tolist()]


@dataclass(eq=False)
class Numbered(Column):
    """Places such as ``captions.csv:17``: which beginning each row has, and its number."""

    beginnings: Strings
    codes_M: np.ndarray
    numbers_M: np.ndarray
    """-1 for a place without one."""

    def __len__(self) -> int:
        return len(self.codes_M)

    def at(self, rows_N: np.ndarray) -> list[str]:
        """Return some places."""
        starts = Coded(self.beginnings, self.codes_M).at(rows_N)
        numbers = self.numbers_M[rows_N].tolist()
        return [f"{a}{n}" if n >= 0 else a for a, n in zip(starts, numbers, strict=True)]


@dataclass(eq=False)
class PlacesInFiles(Column):
    """Places such as ``a.parquet: row 17`` of the rows of files, one after the other."""

    beginnings: Strings
    starts_F: np.ndarray
    """The first row of each file, and the number of all."""

    def __len__(self) -> int:
        return int(self.starts_F[-1])

    def at(self, rows_N: np.ndarray) -> list[str]:
        """Return some places."""
        files_N = np.searchsorted(self.starts_F, rows_N, side="right") - 1
        beginnings = Coded(self.beginnings, files_N).at(np.arange(len(rows_N)))
        numbers = (rows_N - self.starts_F[files_N]).tolist()
        return [f"{a}{n}" for a, n in zip(beginnings, numbers, strict=True)]


@dataclass(eq=False)
class Objects(Column):
    """Values of any kind, as they are."""

    values: Sequence[Any]

    def __len__(self) -> int:
        return len(self.values)

    def at(self, rows_N: np.ndarray) -> list[Any]:
        """Return some of them."""
        return [self.values[i] for i in rows_N.tolist()]


@dataclass(eq=False)
class FilePaths(Column):
    """Files below a folder."""

    folder: Path
    names: Strings

    def __post_init__(self) -> None:
        self._kept: dict[int, Path] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[Any, ...]:
        return FilePaths, (self.folder, self.names)

    def places(self, rows_N: np.ndarray) -> list[str]:
        """Return some paths as strings, as those of ``at`` are written."""
        folder = str(self.folder / "_")[:-1]
        return [f"{folder}{name}" for name in self.names.at(rows_N)]

    def at(self, rows_N: np.ndarray) -> list[Path]:
        """Return some paths."""
        if len(self._kept) + len(rows_N) > KEPT_PATHS:
            self._kept.clear()
        new_K = np.array([i for i in rows_N.tolist() if i not in self._kept], np.int64)
        for i, name in zip(new_K.tolist(), self.names.at(new_K), strict=True):
            self._kept[i] = self.folder / name
        return [self._kept[i] for i in rows_N.tolist()]


class StoredImages(Column):
    """Images that are parts of files, such as cells of tables or members of tar files.

    ``at`` returns a ``StoredImage`` of each; nothing is read before it is.
    """

    @abstractmethod
    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[np.ndarray, PartsOfFile]]:
        """Yield, by file, which of N rows are in it, and which parts of it they are."""


def through_shared_memory(held: Any) -> tuple[Any, ...]:
    """Reduce what holds arrays for another process: they go there through shared memory.

    They are moved there once, and used there by this process, too.
    """
    import torch

    state = {each.name: getattr(held, each.name) for each in fields(held)}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.size:
            if not isinstance(value.base, torch.Tensor):
                setattr(held, name, torch.from_numpy(value.copy()).share_memory_().numpy())
            state[name] = getattr(held, name).base
    return _opened, (type(held), state)


def _opened(kind: type[Any], state: dict[str, Any]) -> Any:
    import torch

    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    return kind(**arrays)


for _kind in (Strings, Integers, Coded, Numbered, PlacesInFiles):
    ForkingPickler.register(_kind, through_shared_memory)
