"""What tables say of rows besides image, text and label, for the conditions of an index.

A dataset that is trained on keeps none of it: a table of a million rows may have a hundred columns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contrastive.console import quiet, say
from contrastive.data.column_kinds import Coded, Column, Objects
from contrastive.data.columns import Columns, sources_of
from contrastive.data.samples import NOT_MODALITIES
from contrastive.datasets.quoting import name_list
from contrastive.datasets.tables.columns import NO_VALUE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from contrastive.data.samples import Samples

INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # 007 is a name
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


class FurtherColumns(NamedTuple):
    """Those of one file."""

    path: Path
    beginning: str
    """Of its rows' sources, before the number."""
    names: list[str]
    rows: Iterable[tuple[int, Sequence[Any]]]
    """The number of each row, and its cells."""
    is_text: bool
    """Whether all cells are texts, those of numbers, too."""
    others: list[str]
    """Names of columns that hold neither texts, numbers, dates nor truth values."""


def with_further_columns(
    rows: Samples, parts: Iterable[FurtherColumns], reserved: Collection[str]
) -> Samples:
    """Return the rows of a dataset with what its tables say of them besides.

    Args:
        rows: what it has built.
        parts: of each file; what there is to say was said when the rows were read.
        reserved: further names that columns may not have: those of modalities.
    """
    if not isinstance(rows, Columns):
        return rows
    taken = {*reserved, *NOT_MODALITIES, "image", "text"}
    at: dict[str, int] = {}
    place_N = np.array([at.setdefault(source, len(at)) for source in sources_of(rows)], np.int64)
    held: dict[str, _Cells] = {}
    found = iter(parts)
    while part := _quiet_next(found):
        if own := [name for name in part.names if name in taken]:
            say(f"{part.path}: {name_list(own)} not kept: rows have such of their own; rename it")
        if part.others:
            say(f"{part.path}: {name_list(part.others)} not kept: no texts, numbers or dates")
        kept: list[tuple[int, _Cells]] = []
        for i, name in enumerate(part.names):
            if name not in taken:
                cells = held.setdefault(name, _Cells(len(at)))
                cells.is_text &= part.is_text
                kept.append((i, cells))
        for line, row in part.rows:
            if (place := at.get(f"{part.beginning}{line}")) is not None:
                for i, cells in kept:
                    cells.put(place, row[i])
    new: dict[str, Column] = {}
    for name, cells in held.items():
        code_M = np.full(len(rows.columns["source"]), -1, np.int32)
        code_M[rows.rows_N] = cells.codes[place_N]
        values = _typed(cells.values) if cells.is_text else cells.values
        new[name] = Coded(Objects(values), code_M)
    return Columns(
        {**rows.columns, **new},
        rows.rows_N,
        rows.bad_rows,
        rows.classes,
        sparse=rows.sparse | new.keys(),
    )


class _Cells:
    """A column, each distinct value once."""

    def __init__(self, count: int) -> None:
        self.codes = np.full(count, -1, np.int32)
        self.values: list[Any] = []
        self.is_text = True
        self._known: dict[Any, int] = {}

    def put(self, place: int, cell: Any) -> None:
        if cell is None:
            return
        try:
            code = self._known.setdefault((type(cell), cell), len(self.values))
        except TypeError:  # a list is no key
            code = len(self.values)
        if code == len(self.values):
            self.values.append(cell)
        self.codes[place] = code


def _quiet_next(parts: Iterator[FurtherColumns]) -> FurtherColumns | None:
    with quiet():
        return next(parts, None)


def _typed(cells: Sequence[Any]) -> list[Any]:
    """Return the cells of a column of texts as numbers, if all are, and None for blank ones."""
    texts = [cell.strip() if isinstance(cell, str) else None for cell in cells]
    texts = [None if text in NO_VALUE else text or None for text in texts]
    there = [text for text in texts if text is not None]
    for form, kind in ((INTEGER, int), (NUMBER, float)):
        if all(map(form.fullmatch, there)):
            return [None if text is None else kind(text) for text in texts]
    return texts
