"""Rows of tables of text and JSON, as arrays of pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.datasets.captions.conversations import first_answer, one_image
from contrastive.datasets.image_folder import NUMBERED
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.columns import caption_list, is_no_caption, text_of
from contrastive.datasets.tables.rows import Block
from contrastive.datasets.tables.text_decoding import NOT_TEXT
from contrastive.datasets.tables.text_tables import TableRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from contrastive.datasets.tables.text_tables import Blocks


def joined_captions(columns: Iterable[str]) -> list[str]:
    """Return the columns that are numbered captions of one image, caption_1 and so on."""
    return [column for column in columns if NUMBERED.fullmatch(column)]


def numbered_captions(
    path: Path, columns: list[str], given: str | None, usual: Sequence[str]
) -> list[str]:
    """Return the columns, and one more of all numbered captions, if nothing else is the text."""
    if given is not None or {*usual} & {*map(str.lower, columns)}:
        return columns
    if not (several := joined_captions(columns)):
        return columns
    say(f"{path}: {name_list(several)} are captions of one image")
    return [*columns, "text"]


def joined(cells: dict[str, Any], columns: Sequence[str]) -> Any:
    """Return the numbered captions of each row as a list, of arrays of pyarrow.

    Raises:
        ValueError: a column holds no texts.
    """
    arrow = require("pyarrow", extra="parquet")
    for name in columns:
        if arrow.types.is_nested(kind := cells[name].type):
            msg = f"{quoted(name)} holds {str(kind)[:80]}, not texts; set text_column to another"
            raise ValueError(msg)
    texts = zip(*(cells[name].cast(arrow.string()).to_pylist() for name in columns), strict=True)
    lists = [[text for text in each if text] for each in texts]
    return arrow.array(lists, arrow.list_(arrow.string()))


def text_blocks(
    path: Path, blocks: Blocks, chosen: dict[str, str], numbered: Sequence[str]
) -> Iterator[Block]:
    """Yield the rows of a table of text; ``numbered`` are its columns, if some are captions."""
    several = joined_captions(numbered)
    told: set[str] = set()
    for block in blocks:
        if isinstance(block, TableRecord):
            lines, records = [block.line], [block.cells]
            problems = {0: block.problem} if block.problem else {}
        else:
            lines, problems = block.lines, dict[int, str]()
            columns = {*chosen.values(), *several} & block.cells.keys()
            named = [block.cells[name] for name in columns]
            records = [dict(zip(columns, cells, strict=True)) for cells in zip(*named, strict=True)]
        cells: dict[str, list[Any]] = {role: [] for role in chosen}
        for i, record in enumerate(records):
            for role, column in chosen.items():
                cell = record.get(column)
                if role == "text" and several:
                    held = [record.get(name) for name in several]
                    cell = [each for each in held if text_of(each) and not is_no_caption(each)]
                try:
                    cells[role].append(_cell(role, cell, path, column, told))
                except ValueError as error:
                    problems.setdefault(i, f"{quoted(column)} {error}")
                    cells[role].append(None)
        arrays = {role: _array(held) for role, held in cells.items()}
        yield Block(len(records), arrays, problems, lines)


def _cell(role: str, cell: object, path: Path, column: str, told: set[str]) -> Any:
    """Return what a cell says: a text, None, or captions in a list.

    Raises:
        ValueError: it says nothing that can be used.
    """
    if role == "image":
        cell = one_image(cell)
    if role == "text":
        cell = caption_list(cell)
        if (answer := first_answer(cell)) is not None:
            if column not in told:
                told.add(column)
                what = f"{quoted(column)}: the first answer of each conversation is a caption"
                say(f"{path}: {what}")
            return _text(answer)
        if isinstance(cell, list):
            return [_text(each) for each in cast("list[object]", cell)]
    return _text(cell)


def _text(cell: object) -> str | None:
    """Return a text that can be written.

    Raises:
        ValueError: it cannot.
    """
    text = cell if isinstance(cell, str) else text_of(cell)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(NOT_TEXT) from None
    return text or None


def _array(cells: list[Any]) -> Any:
    arrow = require("pyarrow", extra="parquet")
    if not any(isinstance(cell, list) for cell in cells):
        return arrow.array(cells, arrow.large_string())
    lists: list[Any] = [cell if isinstance(cell, list) else [cell] for cell in cells]
    return arrow.array(lists, arrow.large_list(arrow.large_string()))
