"""Flickr30k as the Hugging Face hub has it: Parquet with the images inside.

The hub's own split holds all images under the name ``test``; who is in train, val and test is said
by the column ``split``, and that is what counts here. A row is read when its image is needed, and
nothing is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from contrastive.data.content_index import version_of
from contrastive.data.storage.folders import files_below
from contrastive.datasets.captions.splits import ReadCaptions, splits_of
from contrastive.datasets.captions.table import CaptionTable
from contrastive.datasets.flickr30k.forms import captions_of
from contrastive.datasets.quoting import name_list
from contrastive.datasets.tables.arrow_files import PARQUET, is_bytes, named_mistakes, open_arrow
from contrastive.datasets.tables.hub_files import hub_folder
from contrastive.datasets.tables.stored_cells import StoredCell
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrastive.datasets import Flickr30k, SplitReader
    from contrastive.datasets.captions.rows import Row

HUB_COLUMNS = ("image", "caption", "split", "filename")
BYTES = "image.bytes"


def reader(config: Flickr30k) -> SplitReader:
    """Return what reads splits; the Parquet files are opened when the first is asked for.

    Raises:
        DataError: see ``Flickr30k.build``.
        MissingExtra: see ``Flickr30k.build``.
    """

    def read() -> ReadCaptions:
        folder = hub_folder(config.repo, config.revision)
        table = _Table(config.repo)
        for path in files_below(folder, PARQUET, what="Parquet files"):
            table.add(path)
        rows = _rows(table, PurePath(config.repo).name or config.repo)
        return ReadCaptions(CaptionTable.of(rows, table).built(), config.repo)

    return splits_of(config, read)


@dataclass(frozen=True)
class _Table:
    """What the files say of their images, and the images by their name."""

    place: str
    names: list[object] = field(default_factory=list[object])
    splits: list[object] = field(default_factory=list[object])
    captions: list[object] = field(default_factory=list[object])
    cells: dict[str, StoredCell] = field(default_factory=dict[str, StoredCell])
    """Of the rows that hold an image; the first, if a name stands twice."""

    def add(self, path: Path) -> None:
        """Read all but the images.

        Raises:
            DataError: a column is missing, or the file cannot be read.
        """
        file, with_file = open_arrow(path), named_mistakes(path)
        if missing := [name for name in HUB_COLUMNS if name not in file.schema.names]:
            there = name_list(file.schema.names)
            msg = f"{path}: no column {name_list(missing)}; there are: {there}"
            raise DataError(msg)
        kind = file.schema.field("image").type
        if not any(is_bytes(each.type) for each in _fields(kind) if each.name == "bytes"):
            msg = f"{path}: column 'image' holds {str(kind)[:80]}, not {{bytes, path}}"
            raise DataError(msg)
        empty = {*with_file(lambda: file.empty_rows(BYTES))}
        about, row = (str(path), version_of(path), BYTES), 0
        for batch in with_file(lambda: [*file.batches(HUB_COLUMNS[1:])]):
            captions, splits, names = (with_file(array.to_pylist) for array in batch)
            self.captions.extend(captions)
            self.splits.extend(splits)
            self.names.extend(names)
            for name in names:
                if isinstance(name, str) and row not in empty:
                    self.cells.setdefault(name, StoredCell(*about, row, name))
                row += 1

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    def __getitem__(self, name: str) -> StoredCell:
        return self.cells[name]

    def __str__(self) -> str:
        return self.place


def _fields(kind: Any) -> list[Any]:
    return [kind.field(i) for i in range(kind.num_fields)]


def _rows(table: _Table, name: str) -> Iterator[Row]:
    """Yield the captions of each image; rows count from 0, as on the hub's pages."""
    seen: set[str] = set()
    columns = zip(table.names, table.splits, table.captions, strict=True)
    for row, (image, split, captions) in enumerate(columns):
        several = cast("list[object]", captions) if isinstance(captions, list) else []
        yield from captions_of(f"{name}: row {row}", image, split, several, seen)
