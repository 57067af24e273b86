"""Rows that are listed at once: texts line by line, images of a folder."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.console import say_omission
from contrastive.data.bad_rows import BadRows
from contrastive.data.column_kinds import Column, Integers, Numbered, Strings, StringsBuilder
from contrastive.data.columns import Columns
from contrastive.data.images import images_below
from contrastive.datasets.captions.markup import tell_of_markup
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.splits import SPLITS, split_of, those_there
from contrastive.datasets.tables.text_decoding import read_lines, text_problem
from contrastive.errors import DataError, EmptySplit, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.data.samples import Sample
    from contrastive.datasets import Lines


@dataclass(frozen=True)
class RowList:
    """Rows by index.

    Example:
        >>> found = RowList(rows, BadRows(), classes=("blue", "red"))
        >>> len(found), found[0]["text"]
        (2, 'red')
    """

    rows: list[Sample]
    bad_rows: BadRows
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Sample:
        """Return one row; nothing is decoded."""
        return self.rows[index]


def read_texts(config: Lines, split: str) -> Columns:
    """Read the texts of a split.

    Raises:
        DataError: see ``Lines.build``.
    """
    path = Path(config.file).expanduser()
    wanted = wanted_splits(split, SPLITS, path)
    bad_rows = BadRows(budget=config.max_bad)
    texts, numbers = StringsBuilder(), array("i")
    for number, line in enumerate(read_lines(path), 1):
        if line.strip() and split_of(line.strip(), config.holdout) in wanted:
            several = [*_texts(line, f"{path.name}:{number}", bad_rows)]
            texts.extend(several)
            numbers.extend([number] * len(several))
    bad_rows.check(len(numbers) + bad_rows.bad)
    number_N = np.array(numbers, np.int32)
    places = Numbered(Strings.of([f"{path.name}:"]), np.zeros_like(number_N), number_N)
    columns: dict[str, Column] = {
        "text": texts.built(),
        "id": Integers(number_N),
        "source": places,
    }
    rows = Columns(columns, np.arange(len(number_N), dtype=np.int32), bad_rows)
    tell_of_markup(marked_texts(rows), path)
    return filled(rows, split, path)


def marked_texts(rows: Columns) -> Iterator[tuple[str, str]]:
    """Yield the texts that may have HTML in them, and their places."""
    texts = rows.columns["text"]
    assert isinstance(texts, Strings)
    marked = texts.having("&<")
    return zip(texts.at(marked), rows.columns["source"].at(marked), strict=True)


def _texts(line: str, source: str, bad_rows: BadRows) -> Iterator[str]:
    for text in line.strip().split("\t"):
        if flaw := text_problem(text):
            bad_rows.report(source, f"the text {flaw}")
        else:
            yield text.strip()


def wanted_splits(split: str, known: tuple[str, ...], origin: Path) -> set[str]:
    """Return the names in ``train+val``.

    Raises:
        UnknownSplit: one is not ``known`` to ``origin``.
    """
    wanted = {name.strip() for name in split.split("+")}
    if unknown := wanted - set(known):
        msg = f"{origin}: no split {name_list(sorted(unknown))}; {those_there(unknown, known)}"
        raise UnknownSplit(msg, known)
    return wanted


def filled(samples: Columns, split: str, origin: Path) -> Columns:
    """Return rows, of which there are some.

    Raises:
        EmptySplit: there are none.
    """
    if not len(samples):
        msg = f"{origin}: no samples in split {quoted(split)}"
        raise EmptySplit(msg)
    return samples


def images_in(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each image in a folder and the folders in it, sorted by path.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    return [{"image": path, "id": i, "source": ""} for i, path in enumerate(images_below(folder))]


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return a row for each line of a file that is not blank; what is no text is told and left out.

    Raises:
        DataError: the file cannot be read, is blank, or no line is a text.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    flaws = {number: flaw for number, line in lines if (flaw := text_problem(line))}
    told = [f"{file}:{number}: the text {flaw}" for number, flaw in flaws.items()]
    if len(told) == len(lines):
        raise DataError(told[0])
    if told:
        say_omission(f"{told[0]}; {len(told)} of {len(lines)} lines are left out")
    return [
        {"text": line.strip(), "id": number - 1, "source": f"{file.name}:{number}"}
        for number, line in lines
        if number not in flaws
    ]
