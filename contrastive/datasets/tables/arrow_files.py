"""Parquet and Arrow files: their columns some thousand rows at a time, or one row group of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from contrastive.config.extras import require
from contrastive.config.local_files import check_regular
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PARQUET, ARROW = (".parquet",), (".arrow", ".feather", ".ipc")
OF_BROKEN_FILES = (OSError, ValueError, OverflowError, KeyError)  # a date of no calendar, say
BATCH = 1 << 16  # rows that are read at a time


class ArrowFile(Protocol):
    """A table on disk, in row groups."""

    schema: Any
    """Of pyarrow."""
    ends_G: np.ndarray
    """The number of rows up to the end of each row group."""

    def batches(self, columns: Sequence[str], rows: int = BATCH) -> Iterator[list[Any]]:
        """Yield arrays of some columns, some rows at a time; ``image.path`` is a column, too."""
        ...

    def group(self, number: int, column: str) -> Any:
        """Return a column of one row group."""
        ...

    def bytes_of_group(self, column: str) -> int:
        """Return how many bytes are read for one cell of a column, at most."""
        ...

    def empty_rows(self, column: str) -> list[int]:
        """Return the rows whose cell is known to be null without reading many others."""
        ...

    def is_empty(self, column: str) -> bool:
        """Whether all cells are null, as the file itself says."""
        ...

    def first(self, column: str, count: int) -> list[Any]:
        """Return the first cells of a column."""
        ...


class _ParquetFile:
    def __init__(self, path: Path) -> None:
        parquet = require("pyarrow.parquet", extra="parquet")
        self.file = parquet.ParquetFile(
            path
        )  # not mapped: one that is cut short would end the process
        self.schema = self.file.schema_arrow
        about = self.file.metadata
        rows = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
        self.ends_G = np.cumsum(rows, dtype=np.int64)

    def batches(self, columns: Sequence[str], rows: int = BATCH) -> Iterator[list[Any]]:
        # threads of a process that was forked may never wake up
        for batch in self.file.iter_batches(rows, columns=[*columns], use_threads=False):
            yield [_cells(batch, name) for name in columns]

    def group(self, number: int, column: str) -> Any:
        (found,) = self.file.read_row_group(number, columns=[column], use_threads=False).columns
        return found

    def bytes_of_group(self, column: str) -> int:
        about = self.file.metadata
        groups = (about.row_group(i) for i in range(about.num_row_groups))
        sizes = [
            sum(
                chunk.total_uncompressed_size
                for chunk in (group.column(i) for i in range(group.num_columns))
                if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
            )
            for group in groups
            if group.num_rows > 1
        ]
        return max(sizes, default=0)

    def _chunks(self, column: str) -> list[Any]:
        about = self.file.metadata
        groups = (about.row_group(i) for i in range(about.num_row_groups))
        chunks = (group.column(i) for group in groups for i in range(group.num_columns))
        return [chunk for chunk in chunks if chunk.path_in_schema == column]

    def is_empty(self, column: str) -> bool:
        found = self._chunks(column)
        return all(c.statistics and c.statistics.null_count == c.num_values for c in found)

    def first(self, column: str, count: int) -> list[Any]:
        batch = next(self.file.iter_batches(count, columns=[column], use_threads=False), None)
        return [] if batch is None else batch.column(0).to_pylist()

    def empty_rows(self, column: str) -> list[int]:
        about, found = self.file.metadata, list[int]()
        for number in range(about.num_row_groups):
            group = about.row_group(number)
            chunks = (group.column(i) for i in range(group.num_columns))
            (chunk,) = (each for each in chunks if each.path_in_schema == column)
            told = chunk.statistics and chunk.statistics.has_null_count
            if told and chunk.statistics.null_count:
                start = int(self.ends_G[number]) - group.num_rows
                found += [start + i for i in _nulls(self.group(number, column))]
        return found


class _IpcFile:
    """A file of record batches, which is mapped into memory, or a stream of them."""

    def __init__(self, path: Path) -> None:
        self.arrow = require("pyarrow", extra="parquet")
        self.map = self.arrow.memory_map(str(path))
        self.readers: dict[str, Any] = {}
        self.stream: list[Any] | None = None
        try:
            self.whole = self.arrow.ipc.open_file(self.map)
        except self.arrow.ArrowInvalid:
            self.whole = self.arrow.ipc.open_stream(self.map)
            self.stream = [*self.whole]
        self.schema = self.whole.schema
        self.map.seek(0 if self.stream is not None else len("ARROW1\0\0"))
        messages = self.arrow.ipc.MessageReader.open_stream(self.map)
        first = next((each for each in messages if each.type == "record batch"), None)
        self.is_compressed = first is not None and _is_compressed(first.metadata.to_pybytes())
        small = [field.name for field in self.schema if not _is_large(field.type, self.arrow)]
        rows = [batch.num_rows for batch in self._batches(small[:1])]
        self.ends_G = np.cumsum(rows, dtype=np.int64)

    def _reader(self, columns: Sequence[str]) -> Any:
        """Return what reads some columns: others stay compressed, where they are."""
        if not self.is_compressed:
            return self.whole  # which copies nothing
        key = "\0".join(columns)
        if key not in self.readers:
            fields = [self.schema.get_field_index(name) for name in columns]
            options = self.arrow.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
            self.readers[key] = self.arrow.ipc.open_file(self.map, options=options)
        return self.readers[key]

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        if self.stream is not None:
            yield from self.stream
            return
        reader = self._reader(columns)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))

    def batches(self, columns: Sequence[str], rows: int = BATCH) -> Iterator[list[Any]]:
        tops = [*dict.fromkeys(name if self._has(name) else _top(name) for name in columns)]
        for batch in self._batches(tops):
            for first in range(0, batch.num_rows, rows):
                part = batch.slice(first, rows)
                yield [self._sound(_cells(part, name)) for name in columns]

    def _sound(self, cells: Any) -> Any:
        """Insist on cells that lie in the file: pyarrow takes its word for it, and reads anywhere.

        Raises:
            ArrowInvalid: they do not.
        """
        try:
            cells.validate(full=True)
        except self.arrow.ArrowInvalid as error:
            if "UTF8" not in str(error):  # which is told of each row
                raise
        return cells

    def _has(self, name: str) -> bool:
        return self.schema.get_field_index(name) >= 0

    def group(self, number: int, column: str) -> Any:
        top = column if self._has(column) else _top(column)
        batch = self.stream[number] if self.stream else self._reader([top]).get_batch(number)
        return self._sound(_cells(batch, column))

    def bytes_of_group(self, column: str) -> int:
        """Return what is decompressed for a cell: nothing, if the file is not compressed."""
        if not self.is_compressed or self.ends_G[:1].tolist() in ([], [1]):
            return 0
        return self.group(0, column).nbytes

    def is_empty(self, column: str) -> bool:
        groups = (self.group(i, column) for i in range(len(self.ends_G)))
        return all(group.null_count == len(group) for group in groups)

    def first(self, column: str, count: int) -> list[Any]:
        groups = (self.group(i, column) for i in range(min(1, len(self.ends_G))))
        return [cell for group in groups for cell in group.slice(0, count).to_pylist()]

    def empty_rows(self, column: str) -> list[int]:
        if self.is_compressed:  # all images would be decompressed
            return []
        starts = [0, *self.ends_G.tolist()]
        groups = (self.group(i, column) for i in range(len(self.ends_G)))
        return [
            start + i for start, group in zip(starts, groups, strict=False) for i in _nulls(group)
        ]


def _cells(batch: Any, name: str) -> Any:
    """Return a column of a batch, or a field of one."""
    place = batch.schema.get_field_index(name)
    if place >= 0:
        return batch.column(place)
    struct = batch.column(batch.schema.get_field_index(_top(name)))
    compute = require("pyarrow.compute", extra="parquet")
    return compute.struct_field(struct, name.rpartition(".")[2])


def _nulls(cells: Any) -> list[int]:
    """Return which cells are null, or structs whose fields are."""
    if str(cells.type).startswith("struct"):
        compute = require("pyarrow.compute", extra="parquet")
        cells = compute.struct_field(cells, [0])
    return [i for i, empty in enumerate(cells.is_null().to_pylist()) if empty]


def _is_compressed(message: bytes) -> bool:
    """Whether a record batch's message has RecordBatch.compression, as Message.fbs lays it out."""

    def number(place: int, size: int = 4) -> int:
        return int.from_bytes(message[place : place + size], "little")

    def field(table: int, which: int) -> int:
        layout = table - int.from_bytes(message[table : table + 4], "little", signed=True)
        there = 4 + 2 * which < number(layout, 2)
        return number(layout + 4 + 2 * which, 2) if there else 0

    root = number(0)
    header = root + field(root, 2)
    return field(header + number(header), 3) > 0


def _top(column: str) -> str:
    return column.rpartition(".")[0]


def _is_large(kind: Any, arrow: Any) -> bool:
    return arrow.types.is_nested(kind) or is_bytes(kind)


def is_bytes(kind: Any) -> bool:
    """Whether a type of pyarrow is that of bytes."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def open_arrow(path: Path) -> ArrowFile:
    """Open a Parquet or an Arrow file.

    Raises:
        DataError: it is not there, or broken.
        MissingExtra: pyarrow is not installed.
    """
    kind = _ParquetFile if path.suffix.lower() in PARQUET else _IpcFile

    def opened() -> Any:
        check_regular(path)
        found = kind(path)
        for column in found.schema:
            str(column)  # names that are no UTF-8 are told here
        return found

    return cast("ArrowFile", named_mistakes(path)(opened))


def named_mistakes(path: Path) -> Callable[[Callable[[], Any]], Any]:
    """Return what calls something that reads such a file, and names it in what goes wrong."""
    form = "Parquet" if path.suffix.lower() in PARQUET else "Arrow"

    def call(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError:
            msg = f"{path}: no such file"
        except (*OF_BROKEN_FILES, require("pyarrow", extra="parquet").ArrowException) as error:
            msg = f"{path}: not readable {form}: {' '.join(str(error).split())[:200]}"
        raise DataError(msg)

    return call
