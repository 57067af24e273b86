"""Rows as columns: a few arrays hold what N rows are made of; a row is made when it is asked for.

A million dicts take half a gigabyte in each process, and a worker process that only reads them
copies them page by page, for reading counts references. Arrays are read without being written: a
worker that is forked shares them, and to one that is spawned they go through shared memory.

What asks here for ids or samples of rows gets them from a list of dicts, too: those of a plugin.

Shapes: N rows, M rows of a table, of which the N are some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from contrastive.data.bad_rows import BadRows
from contrastive.data.column_kinds import (
    Coded,
    Column,
    Integers,
    Objects,
    RowNumbers,
    Strings,
    through_shared_memory,
)

if TYPE_CHECKING:
    from contrastive.data.row_order import RowOrder

Row = dict[str, Any]
MADE_TOGETHER = 4096  # values that are made at once where all are read


@dataclass(eq=False)
class Values(Sequence[Any]):
    """A column's values of N rows, each made when it is asked for."""

    column: Column
    rows_N: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_N)

    @overload
    def __getitem__(self, index: int, /) -> Any: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[Any]: ...

    def __getitem__(self, index: int | slice, /) -> Any:
        several = self.column.at(self.rows_N[_as_slice(index, len(self))])
        return several if isinstance(index, slice) else several[0]

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), MADE_TOGETHER):
            yield from self.column.at(self.rows_N[first : first + MADE_TOGETHER])

    def distinct(self) -> tuple[Values, np.ndarray]:
        """Return values of which each stands once, if the column knows them, and whose rows are."""
        if not isinstance(self.column, Coded):
            return self, np.arange(len(self), dtype=np.int32)
        codes_N = self.column.codes_M[self.rows_N]
        is_there = np.zeros(len(self.column.values), np.bool_)
        is_there[codes_N] = True
        place_D = np.cumsum(is_there, dtype=np.int32) - np.int32(1)
        return Values(self.column.values, is_there.nonzero()[0]), place_D[codes_N]


@dataclass(eq=False)
class Columns(Sequence[Any]):
    """A built dataset: N rows of a table in columns, which several splits may share.

    Example:
        >>> columns = Columns.of({"text": ["red", "blue"], "id": [0, 1]})
        >>> columns[1], len(columns)
        ({'text': 'blue', 'id': 1}, 2)
    """

    columns: dict[str, Column]
    """By key, in the order of a row's keys."""
    rows_N: np.ndarray
    bad_rows: BadRows = field(default_factory=BadRows)
    classes: tuple[str, ...] = ()
    order: RowOrder | None = None
    """In which training reads the rows, if not in a permutation of all; some of them have none."""
    sparse: frozenset[str] = frozenset({"label"})
    """Keys that some rows lack, as their value is None."""

    @classmethod
    def of(cls, values: dict[str, Sequence[Any]], bad_rows: BadRows | None = None) -> Columns:
        """Return rows of what each key has: integers, strings or other things."""
        columns = {key: _column_of(several) for key, several in values.items()}
        rows_N = np.arange(len(next(iter(values.values()), ())), dtype=np.int32)
        return cls(columns, rows_N, bad_rows or BadRows())

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows_N)

    @overload
    def __getitem__(self, index: int, /) -> Row: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[Row]: ...

    def __getitem__(self, index: int | slice, /) -> Row | list[Row]:
        """Return one row, or a list of them; nothing is decoded."""
        several = self._made(self.rows_N[_as_slice(index, len(self))])
        return several if isinstance(index, slice) else several[0]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""
        for first in range(0, len(self), MADE_TOGETHER):
            yield from self._made(self.rows_N[first : first + MADE_TOGETHER])

    def __eq__(self, other: object) -> bool:
        """Whether these are the rows of another sequence."""
        return isinstance(other, Sequence) and [*self] == [*cast("Sequence[Any]", other)]

    def __hash__(self) -> int:
        return id(self)

    def select(self, indices: np.ndarray | Sequence[int]) -> Columns:
        """Return some of the rows."""
        rows_N = self.rows_N[indices]
        return Columns(self.columns, rows_N, self.bad_rows, self.classes, sparse=self.sparse)

    def _made(self, rows_N: np.ndarray) -> list[Row]:
        keys = [*self.columns]
        several = zip(*(column.at(rows_N) for column in self.columns.values()), strict=True)
        rows = [dict(zip(keys, values, strict=True)) for values in several]
        for key in self.sparse & self.columns.keys():
            for row in rows:
                if row[key] is None:
                    del row[key]
        return rows


def _column_of(values: Sequence[Any]) -> Column:
    if all(type(each) is str for each in values):
        return Strings.of(values)
    if all(type(each) is int for each in values):
        return Integers(np.array(values, np.int64))
    return Objects(values)


def _as_slice(index: int | slice, length: int) -> slice:
    """Return the slice of one index.

    Raises:
        IndexError: there is none.
    """
    if isinstance(index, slice):
        return index
    place = index + length if index < 0 else index
    if not 0 <= place < length:
        msg = f"there is no row {index}, of {length}"
        raise IndexError(msg)
    return slice(place, place + 1)


def values_of(rows: Sequence[Row], key: str) -> Sequence[Any]:
    """Return what rows have under a key, all of which do."""
    if isinstance(rows, Columns):
        return Values(rows.columns[key], rows.rows_N)
    return [row[key] for row in rows]


def chosen(values: Sequence[Any], indices: Sequence[int] | np.ndarray) -> list[Any]:
    """Return some of the values that ``values_of`` or ``sources_of`` gave."""
    if isinstance(values, Values):
        return values.column.at(values.rows_N[indices])
    return [values[i] for i in indices]


def some_values(values: Sequence[Any], indices: Sequence[int] | np.ndarray) -> Sequence[Any]:
    """Return some of the values that ``values_of`` gave, in the form that they have."""
    if isinstance(values, Values):
        return Values(values.column, values.rows_N[indices])
    return [values[i] for i in indices]


def keys_in(rows: Sequence[Row]) -> list[str]:
    """Return the keys that rows have, in the order in which they come."""
    if isinstance(rows, Columns):
        return [key for key in rows.columns if key not in rows.sparse or _any_has(rows, key)]
    return [*dict.fromkeys(key for row in rows for key in row)]


def _any_has(rows: Columns, key: str) -> bool:
    return any(value is not None for value in values_of(rows, key))


def in_tuples(rows: Sequence[Row], keys: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield what rows have under some keys, None where they have nothing, some rows at a time."""
    for first in range(0, len(rows), MADE_TOGETHER):
        if not isinstance(rows, Columns):
            some = rows[first : first + MADE_TOGETHER]
            yield [tuple(row.get(key) for key in keys) for row in some]
            continue
        part = rows.rows_N[first : first + MADE_TOGETHER]
        none = [None] * len(part)
        held = [rows.columns[key].at(part) if key in rows.columns else none for key in keys]
        yield [*zip(*held, strict=True)]


def has_all(rows: Sequence[Row], key: str) -> bool:
    """Whether all rows have something under a key."""
    if isinstance(rows, Columns) and key not in rows.columns:
        return False
    if isinstance(rows, Columns) and key not in rows.sparse:
        return True
    return all(key in row for row in rows)


def ids_of(rows: Sequence[Row]) -> np.ndarray:
    """Return the rows' ids, which are numbers: ``[N]`` int64."""
    if isinstance(rows, Columns):
        column = rows.columns["id"]
        if isinstance(column, RowNumbers):
            return rows.rows_N.astype(np.int64)
        return cast("Integers", column).numbers_M[rows.rows_N].astype(np.int64)
    return np.array([int(row["id"]) for row in rows], np.int64)


def sources_of(rows: Sequence[Row]) -> Sequence[str]:
    """Return where each row came from; its number, where it does not say."""
    if isinstance(rows, Columns) and "source" in rows.columns:
        return values_of(rows, "source")
    return [str(row.get("source") or f"row {i}") for i, row in enumerate(rows)]


def some_rows(rows: Sequence[Row], indices: Sequence[int] | np.ndarray) -> Sequence[Row]:
    """Return some of the rows, in the form that they have."""
    return rows.select(indices) if isinstance(rows, Columns) else [rows[i] for i in indices]


for _kind in (Values, Columns):
    ForkingPickler.register(_kind, through_shared_memory)
