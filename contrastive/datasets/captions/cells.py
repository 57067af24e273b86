"""From the cells of a table to captions: many rows at a time, or one by one where they are odd.

What is read many at a time is what would be read one by one: plain texts, names of images that are
found as they are, and values that were met before. Any other cell has its block read row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from contrastive.console import say
from contrastive.datasets.captions.conversations import first_answer, one_image
from contrastive.datasets.captions.rows import Row
from contrastive.datasets.captions.table import Rows
from contrastive.datasets.image_names import image_path, image_problem, outside_problem
from contrastive.datasets.quoting import quoted
from contrastive.datasets.splits import split_named, split_of
from contrastive.datasets.tables.columns import NO_CAPTION, NO_VALUE, caption_list, cells_of
from contrastive.datasets.tables.text_decoding import text_problem
from contrastive.datasets.tables.text_tables import RecordBlock, TableRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from contrastive.datasets.captions.table import CaptionTable
    from contrastive.datasets.file_index import FileIndex
    from contrastive.datasets.tables.text_tables import Blocks

NEEDED = ("image", "text", "split")
SEEN_CELLS = 1 << 17  # that are remembered, for an image's other captions; COCO has as many images
LONGEST_NAME = 200  # letters; longer ones may be base64

GroupOf = Callable[[str], str]


class _OddError(Exception):
    """A cell needs a closer look."""


_Cell = TypeVar("_Cell")
_Made = TypeVar("_Made")


def _made(
    known: dict[_Cell, _Made], cells: Sequence[_Cell], make: Callable[[_Cell], _Made]
) -> list[_Made]:
    """Return what is made of each cell, never None; ``known`` is what was made of others before."""
    found = [*map(known.get, cells)]
    if None in found:
        if len(known) > SEEN_CELLS:
            known.clear()
        for cell in cells:
            if cell not in known:
                known[cell] = make(cell)
        found = [*map(known.get, cells)]
    return cast("list[_Made]", found)


class CaptionReader:
    """Reads the rows of one table of captions into a ``CaptionTable``."""

    def __init__(
        self,
        table: CaptionTable,
        images: FileIndex,
        chosen: dict[str, str],
        *,
        path: Path,
        place: str,
        below: str,
        split: str,
        holdout: float,
        group_of: GroupOf,
    ) -> None:
        """Read into a table.

        Args:
            table: gets the rows.
            images: those that cells name.
            chosen: the column of each role.
            path: of the table of captions, for messages.
            place: what the places of rows begin with.
            below: the folder of its images, with a final /.
            split: of all rows; empty if a column or a hash says it.
            holdout: share of the images in val, and in test, where a hash says it.
            group_of: returns the group of an image.
        """
        self.table, self.images, self.chosen = table, images, chosen
        self.place, self.below, self.split, self.path = place, below, split, path
        self.holdout, self.group_of = holdout, group_of
        self.tell = cache(say)
        # what was made of cells, by role: no functions, which would keep all of this alive
        self.named: dict[str, tuple[str, str, str]] = {}
        self.image_codes: dict[Any, int] = {}
        self.own_groups: dict[int, str] = {}
        self.optional: dict[Any, str] = {}
        self.splits: dict[Any, str] = {}
        self.hashed: dict[str, str] = {}

    def read(self, blocks: Blocks) -> None:
        """Read all rows."""
        for block in blocks:
            if isinstance(block, TableRecord):
                records: Iterable[TableRecord] = [block]
            elif rows := self._usual(block):
                self.table.extend(rows)
                continue
            else:
                records = block.records()
            for row in self._rows(iter(records)):
                self.table.add(row)

    def _usual(self, block: RecordBlock) -> Rows | None:
        """Return the rows of a block, if nothing about them is odd."""
        given = {role: block.cells[column] for role, column in self.chosen.items()}
        try:
            texts = _plain_texts(given["text"])
            images = _made(self.image_codes, given["image"], self._image_code)
            groups = _made(self.own_groups, images, self._own_group)
            if "group" in given:
                named = _made(self.optional, given["group"], _optional)
                groups = [name or own for name, own in zip(named, groups, strict=True)]
            if self.split:
                splits = [self.split] * len(texts)
            elif "split" in given:
                splits = _made(self.splits, given["split"], _split)
            else:
                splits = _made(self.hashed, groups, self._hashed)
            labels = _made(self.optional, given.get("label", ()), _optional)
        except (_OddError, TypeError):  # a list is no key
            return None
        return Rows(self.place, block.lines, images, texts, splits, groups, labels)

    def _image_code(self, cell: object) -> int:
        """Return the number of an image that is there, by a name with nothing odd about it.

        Raises:
            _OddError: there is something.
        """
        if not (value := _value(cell)):
            raise _OddError
        name = f"{self.below}{value}"
        if len(value) <= LONGEST_NAME and self.images.is_usual(name):
            return self.table.image_code(name, place=name)
        name, unnamed, outside = self._named(value)
        if unnamed or outside or text_problem(name) or name not in self.images:
            raise _OddError
        return self.table.image_code(name)

    def _own_group(self, code: int) -> str:
        return self.group_of(self.table.names[code])

    def _hashed(self, group: str) -> str:
        return split_of(group, self.holdout)

    def _named(self, cell: str) -> tuple[str, str, str]:
        """Return an image's name, and what is wrong: with the cell, or with where that leads."""
        if self.images.is_address(cell):
            return cell, "", ""
        if problem := image_problem(cell):
            return "", problem, ""
        image = self.images.name_of(image_path(self.images, self.below, cell))
        return image, "", outside_problem(self.images, image, cell)

    def _rows(self, records: Iterator[TableRecord]) -> Iterator[Row]:
        """Yield rows one by one."""
        column = self.chosen["image"]
        for record in self._captions(records, self.chosen["text"]):
            source, alone = f"{self.place}{record.line}", record
            if isinstance(several := record.cells.get(column), list):
                try:
                    one = one_image(cast("object", several))
                except ValueError as error:
                    yield Row(source, problem=f"{quoted(column)} {error}")
                    continue
                alone = record._replace(cells={**record.cells, column: one})
            cells, problem = cells_of(alone, self.chosen, needed=NEEDED)
            image, unnamed, outside = "", "", ""
            if not problem:
                ((image, unnamed, outside),) = _made(self.named, [cells["image"]], self._named)
            if problem := problem or unnamed:
                yield Row(source, problem=problem)
                continue
            group = cells.get("group") or self.group_of(image)
            if split := self.split or cells.get("split", ""):
                split = split_named(split) or split
            else:
                (split,) = _made(self.hashed, [group], self._hashed)
            yield Row(source, image, cells["text"], split, group, cells.get("label", ""), outside)

    def _captions(self, records: Iterator[TableRecord], column: str) -> Iterator[TableRecord]:
        """Make a record of each caption, where a cell holds several, or of an answer."""
        for record in records:
            given = record.cells.get(column)
            if isinstance(given, str) and "[" not in given:
                yield record
                continue
            cell = caption_list(given)
            if (answer := first_answer(cell)) is not None:
                what = f"{quoted(column)}: the first answer of each conversation is a caption"
                self.tell(f"{self.path}: {what}")
                cell = [answer]
            if not isinstance(cell, list):
                yield record
                continue
            for caption in cast("list[object]", cell or [""]):
                yield record._replace(cells={**record.cells, column: caption})


def _value(cell: object) -> str:
    """Return the text of a cell; nothing for one that programs write where there is no value.

    Raises:
        _OddError: it is of another kind.
    """
    if not isinstance(cell, str):
        raise _OddError
    value = cell.strip()
    return "" if value in NO_VALUE else value


def _optional(cell: object) -> str:
    """Return the value of a cell that may have none."""
    value = "" if cell is None else _value(cell)
    if value and text_problem(value):
        raise _OddError
    return value


def _split(cell: object) -> str:
    """Return the split that a cell names."""
    if not (split := _optional(cell)):
        raise _OddError
    return split_named(split) or split


def _plain_texts(cells: Sequence[Any]) -> list[str]:
    """Return captions of which each is one.

    Raises:
        _OddError: not all are.
        TypeError: one is no string.
    """
    joined = "".join(cells)
    texts = [*map(str.strip, cells)]
    if "[" in joined or not all(texts) or not NO_CAPTION.isdisjoint(texts):
        raise _OddError
    if not (joined.isascii() and joined.isprintable()) and any(map(text_problem, texts)):
        raise _OddError
    return texts
