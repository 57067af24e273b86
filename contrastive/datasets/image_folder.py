"""A folder of images with captions in a table beside them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from contrastive.data.folders import readable_folder
from contrastive.datasets.caption_rows import FileIndex, Pairs, Row, gather
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, in_one_split, split_of
from contrastive.datasets.text_tables import (
    TableRecord,
    choose_columns,
    name_list,
    read_table,
    text_of,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.config.base import PathField
    from contrastive.datasets import ImageFolder, Purpose

CAPTION_TABLES = tuple(
    f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in (".csv", ".tsv", ".jsonl")
)
"""Names of a table of captions beside images, in the order in which they are looked for.

Example:
    >>> CAPTION_TABLES[0]
    'captions.csv'
"""
COLUMNS = {
    "image": ("image", "file_name", "filename"),
    "text": ("text", "caption"),
    "group": ("group", "group_id"),  # not "id", which mostly numbers rows
    "label": ("label",),
    "split": ("split",),
}


class Table(NamedTuple):
    """A captions file."""

    path: Path
    below: str = ""
    """The folder of its images, relative to the dataset's, with a final /."""
    split: str = ""
    """Of all its rows, if the folder says so."""


def read(config: ImageFolder, split: str, *, purpose: Purpose) -> Pairs:
    """Read one split.

    Raises:
        DataError: see ``ImageFolder.build``.
    """
    folder = Path(config.folder).expanduser()
    with readable_folder(folder):
        tables = _find_tables(folder, config.captions)
        hashed = False
        readers: list[Iterator[Row]] = []
        for table in tables:
            columns, records = read_table(table.path)
            chosen = choose_columns(
                {role: getattr(config, f"{role}_column") for role in COLUMNS},
                table.path,
                columns,
                usual=COLUMNS,
                needed=("image", "text"),
            )
            hashed = hashed or not (table.split or "split" in chosen)
            readers.append(_rows(table, chosen, records, config.holdout))
        return gather(
            in_one_split(row for rows in readers for row in rows),
            split=split,
            images=FileIndex(folder),
            origin=tables[0].path if len(tables) == 1 else folder,
            splits=SPLITS if hashed else (),
            captions_per_image=config.captions_per_image if purpose == "training" else None,
            max_bad=config.max_bad,
        )


def _find_tables(folder: Path, given: PathField | None) -> list[Table]:
    """Return the captions file, or those of the folders that are named like splits."""
    if given:
        return [Table(folder / given)]
    if path := _find(folder):
        return [Table(path)]
    tables = [
        Table(path, f"{name}/", SPLIT_ALIASES.get(name, name))
        for name in (*SPLITS, *SPLIT_ALIASES)
        if (path := _find(folder / name))
    ]
    if not tables:
        names = ", ".join(CAPTION_TABLES)
        msg = f"{folder}: no captions, here or in train, val, test; looked for {names}"
        raise DataError(msg)
    return tables


def _find(folder: Path) -> Path | None:
    return next((folder / name for name in CAPTION_TABLES if (folder / name).is_file()), None)


def _rows(
    table: Table, chosen: dict[str, str], records: Iterator[TableRecord], holdout: float
) -> Iterator[Row]:
    for record in records:
        source = f"{table.below}{table.path.name}:{record.line}"
        cells = {role: text_of(record.cells.get(column)) for role, column in chosen.items()}
        if record.problem:
            yield Row(source, problem=record.problem)
        elif bad := [chosen[role] for role, text in cells.items() if not text]:
            yield Row(source, problem=f"{name_list(bad)} is empty or not a text")
        else:
            image = f"{table.below}{PurePosixPath(cells['image'])}"
            group = cells.get("group", image)
            split = table.split or cells.get("split") or split_of(group, holdout)
            split = SPLIT_ALIASES.get(split, split)
            yield Row(source, image, cells["text"], split, group, cells.get("label", ""))
