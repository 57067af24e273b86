"""A CSV file to rows."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from contrastive.interface import DataError, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.interface import Sample

COLUMNS = ("image", "text", "split")


def rows_of(file: Path, splits: Sequence[str]) -> list[Sample]:
    """Return the rows of some splits.

    The captions of one image have one id, so that they are positives of each other.

    Raises:
        DataError: the file cannot be read, or lacks a column.
        UnknownSplit: it has no row of these splits.
    """
    rows: list[Sample] = []
    ids: dict[str, int] = {}
    known: set[str] = set()
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            table = csv.DictReader(opened)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise DataError(f"{file}:1: there is no column {' or '.join(missing)}")
            for row in table:
                place = f"{file.name}:{table.line_num}"
                if any(not row[name] for name in COLUMNS):
                    raise DataError(f"{place}: a cell is empty; fill it or remove the line")
                id_ = ids.setdefault(row["image"], len(ids))
                known.add(row["split"])
                if row["split"] in splits:
                    image = file.parent / row["image"]
                    rows.append({"image": image, "text": row["text"], "id": id_, "source": place})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if missing := [split for split in splits if split not in known]:
        there = ", ".join(sorted(known)) or "none"
        raise UnknownSplit(f"{file}: there is no split {' or '.join(missing)}; there are: {there}")
    return rows
