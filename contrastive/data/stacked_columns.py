"""Columns of several tables, one below the other, as one column.

Shapes: M rows of all tables, N of them that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from contrastive.data.column_kinds import Coded, Column, through_shared_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(eq=False)
class Stacked(Column):
    """The values of several columns, those of the first before those of the second."""

    columns: Sequence[Column]
    ends: np.ndarray

    @classmethod
    def of(cls, columns: Sequence[Column]) -> Stacked:
        """Stack columns."""
        return cls(columns, np.cumsum([0, *map(len, columns)])[1:])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, rows_N: np.ndarray) -> list[Any]:
        """Return some values."""
        found: list[Any] = [None] * len(rows_N)
        for column, places, rows in self.parts(rows_N):
            for place, value in zip(places.tolist(), column.at(rows), strict=True):
                found[place] = value
        return found

    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[Column, np.ndarray, np.ndarray]]:
        """Yield each column of which some rows are, with their places and their rows in it."""
        which_N = np.searchsorted(self.ends, rows_N, side="right")
        for which in cast("list[int]", np.unique(which_N).tolist()):
            places = (which_N == which).nonzero()[0]
            start = int(self.ends[which - 1]) if which else 0
            yield self.columns[which], places, rows_N[places] - start


@dataclass(eq=False)
class Prefixed(Column):
    """Texts of another column, each after the same words."""

    words: str
    column: Column

    def __len__(self) -> int:
        return len(self.column)

    def at(self, rows_N: np.ndarray) -> list[str]:
        """Return some texts."""
        return [f"{self.words}{text}" for text in self.column.at(rows_N)]


def stacked(parts: Sequence[tuple[Column, np.ndarray]]) -> Coded:
    """Return some rows of several columns as one; a row that is -1 has no value.

    What rows have alike in a column of ``Coded`` they have alike here.
    """
    columns = [column.values if isinstance(column, Coded) else column for column, _ in parts]
    ends = np.cumsum([0, *map(len, columns)])
    counts = np.cumsum([0, *(len(rows) for _, rows in parts)])
    codes = np.empty(counts[-1], np.int32 if ends[-1] < 1 << 31 else np.int64)
    for i, (column, rows) in enumerate(parts):
        own = rows
        if isinstance(column, Coded) and len(column):
            own = np.where(rows >= 0, column.codes_M[rows], -1)
        codes[counts[i] : counts[i + 1]] = np.where(own >= 0, own + ends[i], -1)
    return Coded(Stacked.of(columns), codes)


ForkingPickler.register(Stacked, through_shared_memory)
