"""From the rows of tables to captions of all splits: images, splits, ids and places.

Shapes: F files, T rows of tables, M captions, U distinct names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.data.column_kinds import (
    Coded,
    Column,
    Integers,
    Numbered,
    Objects,
    PlacesInFiles,
    RowNumbers,
    Strings,
)
from contrastive.datasets.captions.table import NO_SPLIT, Captions
from contrastive.datasets.image_names import image_path, image_problem, outside_problem
from contrastive.datasets.quoting import quoted
from contrastive.datasets.splits import split_named, split_of
from contrastive.datasets.tables.forms import OF_ARROW, form_of
from contrastive.datasets.tables.rows import shares
from contrastive.datasets.tables.stored_cells import StoredCells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.datasets.file_index import FileIndex
    from contrastive.datasets.tables.files import Opened
    from contrastive.datasets.tables.rows import Names, TableRows


def captions_of(
    rows: TableRows, opened: Sequence[Opened], images: FileIndex, *, by_name: bool, holdout: float
) -> Captions:
    """Return the captions of all rows; the names of images are looked up."""
    starts_F = np.cumsum([0, *(each.rows for each in opened)], dtype=np.int64)
    lengths = rows.captions_of_rows() if "text" in rows.columns else None
    row_M = None if lengths is None else np.repeat(np.arange(rows.rows, dtype=np.int32), lengths)
    columns: dict[str, Column] = {}
    named: _Images | None = None
    if opened[0].image:
        columns["image"] = _stored(opened, starts_F)
    elif "image" in rows.columns:
        named = _Images(rows.names("image"), rows, images)
        columns["image"] = Coded(named.column(), named.codes_T)
    groups = rows.names("group") if "group" in rows.columns else None
    split_T, splits = _splits(rows, opened, groups, named, by_name=by_name, holdout=holdout)
    if named:
        named.check_splits(rows, split_T, [*splits])
    if "text" in rows.columns:
        columns["text"] = rows.texts.built()
    columns["id"] = _ids(rows, groups, named)
    columns["source"] = _places(rows, opened, starts_F)
    classes: tuple[str, ...] = ()
    if "label" in rows.columns:
        labels = rows.names("label")
        distinct = labels.distinct.to_pylist()
        classes = tuple(sorted(distinct))
        columns["label"] = Coded(Objects(distinct), labels.codes_T)
    problems = _by_caption(rows.problems, lengths)
    if row_M is not None:
        columns = {
            role: column if role == "text" else _expanded(column, row_M)
            for role, column in columns.items()
        }
        split_T = split_T[row_M]
    image_M = row_M
    if named:
        image_M = named.codes_T if row_M is None else named.codes_T[row_M]
    return Captions(
        columns,
        str(images),
        named.missing if named else {},
        image_M,
        split_T,
        splits,
        rows.text_problems | problems,
        {},
        classes,
    )


def _stored(opened: Sequence[Opened], starts_F: np.ndarray) -> StoredCells:
    return StoredCells(
        tuple(str(each.file.path) for each in opened),
        tuple(each.version for each in opened),
        tuple(each.image for each in opened),
        tuple(map(beginning_of, opened)),
        starts_F,
    )


def beginning_of(opened: Opened) -> str:
    """Return what the place of a row begins with."""
    has_lines = form_of(opened.file.path) not in (".json", *OF_ARROW)
    return f"{opened.file.name}{':' if has_lines else ': row '}"


def _places(rows: TableRows, opened: Sequence[Opened], starts_F: np.ndarray) -> Column:
    beginnings = Strings.of(map(beginning_of, opened))
    if not rows.lines:
        return PlacesInFiles(beginnings, starts_F)
    file_T = np.repeat(np.arange(len(opened), dtype=np.int32), np.diff(starts_F))
    return Numbered(beginnings, file_T, np.concatenate(rows.lines))


def _expanded(column: Column, row_M: np.ndarray) -> Column:
    """Return what rows have, by caption."""
    if isinstance(column, Integers):
        return Integers(column.numbers_M[row_M])
    if isinstance(column, RowNumbers):
        return Integers(row_M)
    if isinstance(column, Coded):
        return Coded(column.values, column.codes_M[row_M])
    return Coded(column, row_M)


def _by_caption(problems: dict[int, str], lengths: np.ndarray | None) -> dict[int, str]:
    """Return the problems of rows as those of their captions."""
    if lengths is None or not problems:
        return problems
    ends = np.cumsum(lengths)
    return {
        caption: problem
        for row, problem in problems.items()
        for caption in range(int(ends[row] - lengths[row]), int(ends[row]))
    }


def _splits(
    rows: TableRows,
    opened: Sequence[Opened],
    groups: Names | None,
    named: _Images | None,
    *,
    by_name: bool,
    holdout: float,
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the split of each row by number, and the numbers of splits."""
    codes: dict[str, int] = {}
    if "split" in rows.columns:
        names = rows.names("split")
        found = [split_named(name) or name for name in names.distinct.to_pylist()]
        code_U = [codes.setdefault(name, len(codes)) for name in found]
        return np.array([*code_U, NO_SPLIT], np.int16)[names.codes_T], codes
    counts = [each.rows for each in opened]
    if by_name:
        code_F = [codes.setdefault(each.file.split, len(codes)) for each in opened]
        return np.repeat(np.array(code_F, np.int16), counts), codes
    codes |= {"train": 0, "val": 1, "test": 2}
    if named:
        split_T = named.hashed(holdout)
    elif "text" in rows.columns and not opened[0].image:
        split_T = _by_text(rows, holdout)
    else:
        parts = [shares(each.file.name, each.rows) for each in opened]
        split_T = np.concatenate([np.empty(0, np.int16), *(_of_shares(x, holdout) for x in parts)])
    if groups:
        code_U = [codes[split_of(name, holdout)] for name in groups.distinct.to_pylist()]
        has_group = groups.codes_T >= 0
        split_T[has_group] = np.array([*code_U, 0], np.int16)[groups.codes_T[has_group]]
    return split_T, codes


def _of_shares(shares_T: np.ndarray, holdout: float) -> np.ndarray:
    found = np.zeros(len(shares_T), np.int16)
    found[shares_T < 2 * holdout] = 1
    found[shares_T < holdout] = 2
    return found


def _by_text(rows: TableRows, holdout: float) -> np.ndarray:
    """Return the split of each row by its first text."""
    lengths = rows.captions_of_rows()
    first_T = np.arange(rows.rows) if lengths is None else np.cumsum(lengths) - lengths
    texts, found = rows.texts.so_far(), np.zeros(rows.rows, np.int16)
    names = ("train", "val", "test")
    for start in range(0, rows.rows, 4096):
        several = texts.at(first_T[start : start + 4096])
        part = [names.index(split_of(text, holdout)) for text in several]
        found[start : start + len(part)] = part
    return found


def _ids(rows: TableRows, groups: Names | None, named: _Images | None) -> Column:
    """Return the id of each row: that of its group, else that of its image, or of the row."""
    if groups is None:
        return RowNumbers(rows.rows) if named is None else Integers(named.codes_T)
    own_T = np.arange(rows.rows, dtype=np.int32) if named is None else named.codes_T
    count = len(groups.distinct)
    return Integers(np.where(groups.codes_T >= 0, groups.codes_T, own_T + np.int32(count)))


class _Images:
    """The images that rows name, as files."""

    def __init__(self, cells: Names, rows: TableRows, images: FileIndex) -> None:
        self.images = images
        self.names: dict[str, int] = {}
        self.places: list[str] = []
        self.missing: dict[int, str] = {}
        problems: dict[int, str] = {}
        code_U = [self._code(i, cell, problems) for i, cell in enumerate(_strings(cells))]
        self.codes_T = np.array([*code_U, -1], np.int32)[cells.codes_T]
        if problems:
            for row in np.isin(cells.codes_T, [*problems]).nonzero()[0].tolist():
                rows.problems.setdefault(row, problems[int(cells.codes_T[row])])

    def _code(self, number: int, cell: str, problems: dict[int, str]) -> int:
        """Return the number of an image, by what a cell calls it; -1 if it names none."""
        if self.images.is_usual(cell) or self.images.is_address(cell):
            name = place = cell
        else:
            if problem := image_problem(cell):
                problems[number] = problem
                return -1
            name = self.images.name_of(image_path(self.images, "", cell))
            if outside := outside_problem(self.images, name, cell):
                problems[number] = outside
                return -1
            place = self.images.place_of(name)
        code = self.names.setdefault(name, len(self.names))
        if code == len(self.places):
            self.places.append(place or "")
            if place is None:
                self.missing[code] = name
        return code

    def column(self) -> Column:
        return self.images.column(self.places)

    def hashed(self, holdout: float) -> np.ndarray:
        """Return the split of each row by the name of its image."""
        numbers = {"train": 0, "val": 1, "test": 2}
        code_I = [numbers[split_of(name, holdout)] for name in self.names]
        return np.array([*code_I, 0], np.int16)[self.codes_T]

    def check_splits(self, rows: TableRows, split_T: np.ndarray, splits: list[str]) -> None:
        """Note the rows whose image is in another split already."""
        home_I = np.full(len(self.names) + 1, NO_SPLIT, np.int16)
        known = (self.codes_T >= 0) & (split_T >= 0)
        known[[*rows.problems]] = False
        of_known = known.nonzero()[0][::-1]  # the first row of an image is the last to be noted
        home_I[self.codes_T[of_known]] = split_T[of_known]
        other = known & (home_I[self.codes_T] != split_T)
        names = [*self.names] if other.any() else []
        for row in other.nonzero()[0].tolist():
            code = int(self.codes_T[row])
            home = splits[int(home_I[code])]
            problem = f"image {quoted(names[code])} is in split {home} already"
            rows.problems.setdefault(row, problem)


def _strings(names: Names) -> list[Any]:
    return names.distinct.to_pylist()
