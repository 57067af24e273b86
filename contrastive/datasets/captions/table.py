"""Captions of all splits as columns, and the samples of each split: ids, and what is left out.

Shapes: M rows of all splits, N of one, I images.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from contrastive.config.garbage import garbage_later, return_freed_memory
from contrastive.data.bad_rows import BadRows
from contrastive.data.column_kinds import (
    Coded,
    Column,
    Integers,
    Numbered,
    Objects,
    Strings,
    StringsBuilder,
)
from contrastive.data.columns import Columns
from contrastive.datasets.captions.markup import tell_of_markup
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.file_index import FileIndex
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.splits import those_there
from contrastive.errors import DataError, EmptySplit, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from contrastive.data.images import ImageSource
    from contrastive.datasets.captions.rows import Row

TOGETHER = 4096  # rows that are made into arrays at a time
NO_SPLIT, UNKNOWN = -1, -2
ENDS_IN_NUMBER = re.compile(r"(.*?)(0|[1-9][0-9]{0,8})", re.DOTALL)  # its number has 32 bits


class Rows(NamedTuple):
    """Several rows without a fault."""

    beginning: str
    """Of their places, before the number."""
    lines: Sequence[int]
    images: list[int]
    """Their numbers in a ``CaptionTable``."""
    texts: list[str]
    splits: list[str]
    groups: list[str]
    labels: list[str]
    """Nothing, if none has one."""


class Images(Protocol):
    """Images by the name that rows have for them; ``str`` says where they are."""

    def __contains__(self, name: str, /) -> bool:
        """Say whether there is such an image."""
        ...

    def __getitem__(self, name: str, /) -> ImageSource:
        """Return an image, as cheaply as can be: its path, or where it is stored."""
        ...


class Codes(dict[str, int]):
    """A number for each of some names, in the order in which they come."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


class CaptionTable:
    """The rows of all splits as columns, and those of each split, judged.

    Ids count groups in the order of the rows, those of other splits too, so that a group has the
    same id in every split.
    """

    def __init__(self, images: Images, *, in_one_split: bool = False) -> None:
        """Find images in ``images``, each in one split if that is asked for."""
        self.images = images
        self.in_one_split = in_one_split
        self.image_codes, self.groups, self.splits, self.labels = (Codes() for _ in range(4))
        self.beginnings = Codes()
        self.names: list[str] = []
        self.places: list[str | None] = []
        self.homes: list[int] = []
        self.texts = StringsBuilder()
        self.numbers = [bytearray() for _ in range(6)]
        self.waiting: list[tuple[int, ...]] = []
        self.waiting_texts: list[str] = []
        self.problems: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self.label_code("")

    @classmethod
    def of(cls, rows: Iterable[Row], images: Images) -> CaptionTable:
        """Return the table of some rows."""
        table = cls(images)
        with garbage_later():
            for row in rows:
                table.add(row)
        return table

    def __len__(self) -> int:
        return self.texts.rows + len(self.waiting)

    def image_code(self, name: str, *, place: str | None = None) -> int:
        """Return the number of an image, which is known to be a file at ``place`` if that is."""
        code = self.image_codes[name]
        if code == len(self.names):
            self.names.append(name)
            self.places.append(place)
            self.homes.append(UNKNOWN)
        return code

    def label_code(self, label: str) -> int:
        """Return the number of a class; -1 for none."""
        return self.labels[label] - 1

    def add(self, row: Row) -> None:
        """Judge a row, and add it."""
        problem = row.problem or row.flaw
        image = self.image_code(row.image) if row.image else -1
        split = NO_SPLIT if row.split is None else self.splits[row.split]
        if image >= 0 and self.in_one_split:
            problem = self._elsewhere(image, split) or problem
        if problem:
            self.problems[len(self)] = problem
        elif row.note:
            self.notes[len(self)] = row.note
        group = self.groups[row.group or row.image] if row.image else -1
        beginning, number = numbered(row.source)
        label = self.label_code(row.label)
        self.waiting.append((self.beginnings[beginning], number, image, split, group, label))
        self.waiting_texts.append("" if problem else row.text.strip())
        if len(self.waiting) == TOGETHER:
            self._settle()

    def extend(self, rows: Rows) -> None:
        """Add rows without a fault, unless their images are in another split already."""
        self._settle()
        count = len(rows.texts)
        splits = [*map(self.splits.__getitem__, rows.splits)]
        if self.in_one_split and [*map(self.homes.__getitem__, rows.images)] != splits:
            for i, (image, split) in enumerate(zip(rows.images, splits, strict=True)):
                if self.homes[image] != split and (problem := self._elsewhere(image, split)):
                    self.problems[len(self) + i] = problem
        start = np.full(count, self.beginnings[rows.beginning])
        groups = [*map(self.groups.__getitem__, rows.groups)]
        labels = [*map(self.label_code, rows.labels)] or np.full(count, -1)
        self._append(start, rows.lines, rows.images, splits, groups, labels)
        self.texts.extend(rows.texts)

    def _elsewhere(self, image: int, split: int) -> str:
        """Return the problem of a row whose image is in another split already."""
        home = self.homes[image]
        if home == split:
            return ""
        if home == UNKNOWN:
            self.homes[image] = split
            return ""
        where = None if home == NO_SPLIT else [*self.splits][home]
        return f"image {quoted(self.names[image])} is in split {where} already"

    def _settle(self) -> None:
        if self.waiting:
            self._append(*zip(*self.waiting, strict=True))
            self.texts.extend(self.waiting_texts)
            self.waiting, self.waiting_texts = [], []

    def _append(self, *columns: Sequence[int] | np.ndarray) -> None:
        for i, numbers in enumerate(columns):
            self.numbers[i] += np.asarray(numbers, np.int32).tobytes()

    def _images(self, used: list[int]) -> list[Any]:
        """Return the images that are used and there: paths below the folder, or what they are."""
        found: list[Any] = [None] * len(self.names)
        for code in used:
            name = self.names[code]
            if isinstance(self.images, FileIndex):
                found[code] = self.places[code] or self.images.place_of(name)
            elif name in self.images:
                found[code] = self.images[name]
        return found

    def built(self) -> Captions:
        """Return the rows; the names of images are looked up."""
        self._settle()
        start_M, number_M, image_M, split_M, group_M, label_M = (
            np.frombuffer(numbers, np.int32) for numbers in self.numbers
        )
        good_M = np.ones(len(image_M), np.bool_)
        good_M[[*self.problems]] = False
        used = np.bincount(image_M[good_M], minlength=len(self.names)).nonzero()[0].tolist()
        images = self._images(used)
        columns: dict[str, Column] = {
            "image": Coded(_column(self.images, images), image_M),
            "text": self.texts.built(),
            "id": Integers(group_M),
            "source": Numbered(Strings.of(self.beginnings), start_M, number_M),
        }
        if labels := [*self.labels][1:]:
            columns["label"] = Coded(Objects(labels), label_M)
        return Captions(
            columns,
            str(self.images),
            {code: self.names[code] for code in used if images[code] is None},
            image_M,
            split_M,
            dict(self.splits),
            self.problems,
            self.notes,
            tuple(sorted(labels)),
        )


def numbered(source: str) -> tuple[str, int]:
    """Return a place without the number that it ends with, and that; -1 if it has none."""
    found = ENDS_IN_NUMBER.fullmatch(source)
    return (found[1], int(found[2])) if found else (source, -1)


def _column(images: Images, found: list[Any]) -> Column:
    if isinstance(images, FileIndex):
        return images.column(found)
    return Objects(found)


@dataclass(frozen=True)
class Captions:
    """The rows of all splits."""

    columns: dict[str, Column]
    images: str
    """Where they are, for messages."""
    missing: dict[int, str]
    """Names of those that are not there."""
    image_M: np.ndarray | None
    """None if each row has its own, or none."""
    split_M: np.ndarray
    splits: dict[str, int]
    problems: dict[int, str]
    notes: dict[int, str]
    classes: tuple[str, ...]

    @garbage_later()
    def split(
        self,
        split: str,
        *,
        origin: Path | str,
        splits: Iterable[str] = (),
        captions_per_image: int | None = None,
        max_bad: float = 0.01,
    ) -> Columns:
        """Choose the rows of a split and judge them.

        Args:
            split: a name, or several joined by ``+``.
            origin: the file, folder or repository that messages should name.
            splits: names that exist even if no row has them.
            captions_per_image: keep the first so many good ones.
            max_bad: share of the rows that may be left out.

        Raises:
            DataError: too many bad rows.
            EmptySplit: nothing is in it.
            UnknownSplit: there is no such split.
        """
        wanted = {name.strip() for name in split.split("+")}
        codes = [self.splits[name] for name in wanted if name in self.splits]
        is_wanted = np.zeros(len(self.splits) + 1, np.bool_)
        is_wanted[[NO_SPLIT, *codes]] = True  # NO_SPLIT is the last
        in_split_M = is_wanted[self.split_M]
        bad_rows = BadRows(budget=max_bad)
        self._report(in_split_M, bad_rows)
        in_split_M[[*self.problems]] = False
        rows = in_split_M.nonzero()[0].astype(np.int32)
        if captions_per_image is not None and self.image_M is not None:
            rows = rows[_number_of_each(self.image_M[rows]) < captions_per_image]
        missing = rows[:0]
        if self.missing and self.image_M is not None:
            is_there = np.isin(self.image_M[rows], [*self.missing], invert=True)
            rows, missing = rows[is_there], rows[~is_there]
        if len(missing) and not len(rows) and not bad_rows.bad:
            image, source = self._first(missing)
            msg = (
                f"{source}: image {quoted(image)} is not in {self.images}, nor is any other of "
                f"split {quoted(split)}; set images to their folder"
            )
            raise DataError(msg)
        if len(missing):
            self._report_missing(missing, bad_rows)
        known = {*self.splits, *splits} - {""}
        if known and (unknown := wanted - known):
            msg = f"{origin}: no split {name_list(sorted(unknown))}; {those_there(unknown, known)}"
            raise UnknownSplit(msg, known)
        bad_rows.check(len(rows) + bad_rows.bad)
        if not len(rows):
            why = f": {bad_rows.lines[0]}" if bad_rows.lines else ""
            msg = f"{origin}: no samples in split {quoted(split)}{why}"
            raise EmptySplit(msg)
        tell_of_alike(self.classes, origin)
        self._tell_of_markup(rows, origin)
        return_freed_memory()
        return Columns(self.columns, rows, bad_rows, self.classes)

    def _report(self, in_split_M: np.ndarray, bad_rows: BadRows) -> None:
        """Tell of the rows that are left out, and of those that are mended."""
        rows = [i for i in sorted({*self.problems, *self.notes}) if in_split_M[i]]
        for i, source in zip(rows, self._sources(rows), strict=True):
            if problem := self.problems.get(i):
                bad_rows.report(source, problem)
            else:
                bad_rows.report(source, self.notes[i], rows=0)

    def _report_missing(self, missing: np.ndarray, bad_rows: BadRows) -> None:
        """Tell of each image that is not there, by the first row that has it."""
        assert self.image_M is not None
        _, first, counts = np.unique(self.image_M[missing], return_index=True, return_counts=True)
        for i in np.argsort(first).tolist():
            image, source = self._first(missing[first[i] :])
            problem = f"image {quoted(image)} is not in {self.images}"
            bad_rows.report(source, problem, rows=int(counts[i]))

    def _first(self, rows: np.ndarray) -> tuple[str, str]:
        """Return the image and the place of the first of some rows."""
        assert self.image_M is not None
        (source,) = self._sources(rows[:1])
        return self.missing[int(self.image_M[rows[0]])], source

    def _sources(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        return self.columns["source"].at(np.asarray(rows, np.int32))

    def _tell_of_markup(self, rows: np.ndarray, origin: Path | str) -> None:
        texts = self.columns.get("text")
        if not isinstance(texts, Strings):
            return
        marked = texts.having("&<")
        place = np.minimum(np.searchsorted(rows, marked), len(rows) - 1)
        marked = marked[rows[place] == marked]
        tell_of_markup(zip(texts.at(marked), self._sources(marked), strict=True), origin)


def _number_of_each(codes_N: np.ndarray) -> np.ndarray:
    """Return how many rows before each have its code."""
    order = np.argsort(codes_N, kind="stable")
    ordered = codes_N[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]].nonzero()[0]
    number = np.empty(len(codes_N), np.int64)
    number[order] = np.arange(len(codes_N)) - np.repeat(
        starts, np.diff(np.r_[starts, len(codes_N)])
    )
    return number
