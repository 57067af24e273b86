"""A folder of images with captions in a table beside them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.data.folders import readable_folder
from contrastive.datasets.caption_rows import FileIndex, Pairs, Row, gather
from contrastive.datasets.known_files import CAPTION_TABLES, first_file, fitting_type
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, in_one_split, split_of
from contrastive.datasets.text_tables import (
    TableRecord,
    cells_of,
    choose_columns,
    read_table,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.config.base import PathField
    from contrastive.datasets import ImageFolder, Purpose

COLUMNS = {
    "image": ("image", "file_name", "filename", "filepath"),
    "text": ("text", "caption", "title"),
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
    images = _images(config)
    with readable_folder(folder), readable_folder(images):
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
            readers.append(_rows(table, chosen, records, config))
        return gather(
            in_one_split(row for rows in readers for row in rows),
            split=split,
            images=FileIndex(images),
            origin=tables[0].path if len(tables) == 1 else folder,
            splits=SPLITS if hashed else (),
            captions_per_image=config.captions_per_image if purpose == "training" else None,
            max_bad=config.max_bad,
        )


def _images(config: ImageFolder) -> Path:
    return Path(config.folder).expanduser() / (config.images or "")


def _find_tables(folder: Path, given: PathField | None) -> list[Table]:
    """Return the captions file, or those of the folders that are named like splits."""
    if given:
        return [Table(folder / given)]
    if path := first_file(folder, CAPTION_TABLES):
        return [Table(path)]
    tables = [
        Table(path, f"{name}/", SPLIT_ALIASES.get(name, name))
        for name in (*SPLITS, *SPLIT_ALIASES)
        if (path := first_file(folder / name, CAPTION_TABLES))
    ]
    if not tables:
        names = ", ".join(CAPTION_TABLES)
        msg = f"{folder}: no captions, here or in train, val, test; looked for {names}"
        raise DataError(msg + fitting_type(folder))
    return tables


def _rows(
    table: Table,
    chosen: dict[str, str],
    records: Iterator[TableRecord],
    config: ImageFolder,
) -> Iterator[Row]:
    images, parent = _images(config), "" if config.images else table.below
    for record in _captions(records, chosen["text"]):
        source = f"{table.below}{table.path.name}:{record.line}"
        cells, problem = cells_of(record, chosen, needed=("image", "text", "split"))
        if problem:
            yield Row(source, problem=problem)
        else:
            image = _below(images, parent, cells["image"])
            group = cells.get("group", image)
            split = table.split or cells.get("split") or split_of(group, config.holdout)
            split = SPLIT_ALIASES.get(split, split)
            yield Row(source, image, cells["text"], split, group, cells.get("label", ""))


def _captions(records: Iterator[TableRecord], column: str) -> Iterator[TableRecord]:
    """Make a record of each caption, where a cell of JSON lines holds several."""
    for record in records:
        cell = record.cells.get(column)
        if not isinstance(cell, list):
            yield record
            continue
        for caption in cast("list[object]", cell or [""]):
            yield record._replace(cells={**record.cells, column: caption})


def _below(images: Path, parent: str, name: str) -> str:
    """Return an image's path below the folder of images; as it is, if it lies elsewhere."""
    if not PurePath(name).is_absolute():
        return f"{parent}{PurePosixPath(name)}"
    for folder in (images.absolute(), images.resolve()):
        with suppress(ValueError):
            return PurePath(name).relative_to(folder).as_posix()
    return name
