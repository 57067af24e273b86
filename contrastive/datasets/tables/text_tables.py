"""Tables of text that somebody else made: bounded, with the line of every mistake.

A file that is broken as a whole is a ``DataError``. A broken row is a ``TableRecord`` with a
problem; the rows after it are read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from contrastive.console import say
from contrastive.datasets.quoting import name_list
from contrastive.datasets.tables.text_decoding import MAX_BYTES, TextLines, parse_json, read_text
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FIRST_ROWS = 100  # rows, to tell the form of a table
BLOCK = 2048  # lines of a table that are read together
MAX_SPAN = 100  # lines of one quoted record; more is a quote that nobody closed
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ","}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL = re.compile(r'"?sep=.?"?\r?', re.IGNORECASE)  # its first line, which names the separator


_Lines = tuple[list[int], list["list[str] | str"]]
"""Lines of rows, and the cells of each; of a broken one, why it has none."""


class TableRecord(NamedTuple):
    """One row of a table.

    Example:
        >>> TableRecord(line=2, cells={"caption": "a red square"}).cells["caption"]
        'a red square'
    """

    line: int
    """Where it starts, from 1."""
    cells: Mapping[str, object]
    """By column; text, or any JSON value in JSON lines."""
    problem: str = ""
    """Why it cannot be used, if it cannot."""


class RecordBlock(NamedTuple):
    """Several rows of a table that follow each other, none of them broken, by column."""

    lines: Sequence[int]
    cells: Mapping[str, Sequence[Any]]

    def records(self) -> Iterator[TableRecord]:
        """Yield the rows."""
        for line, *cells in zip(self.lines, *self.cells.values(), strict=True):
            yield TableRecord(line, dict(zip(self.cells, cells, strict=True)))


Blocks = Iterator["RecordBlock | TableRecord"]
"""A table's rows in their order: several at a time, or one that is broken."""


def json_lines(lines: Sequence[str]) -> tuple[list[str], Iterator[TableRecord]]:
    """Read a JSON object a line: the keys of all of them, and the records one by one."""
    columns = {key: None for record in _json_lines(lines) for key in record.cells}
    return list(columns), _json_lines(lines)


def read_delimited(path: Path, form: str) -> tuple[list[str], Blocks]:
    """Read a table of text whose suffix is ``form``, ``.csv`` and its kin.

    Raises:
        DataError: as ``read_text``, or the header is broken.
    """
    lines = TextLines(read_text(path))
    start = 1 if EXCEL.fullmatch(lines[0]) else 0
    blocks = _in_blocks(lines, _delimiter(path, DELIMITERS[form], lines, start), start)
    (line, *others), (header, *rows) = next(blocks)
    if isinstance(header, str):
        msg = f"{path}:{line}: the header is {header}"
        raise DataError(msg)
    columns = [column.strip() for column in header]
    named = [column for column in columns if column]  # Excel writes columns that are empty
    if len(set(named)) < len(named):
        msg = f"{path}:{line}: the header names a column twice; it has {name_list(columns)}"
        raise DataError(msg)
    return columns, _by_column(columns, chain([(others, rows)], blocks))


def records_of(blocks: Blocks) -> Iterator[TableRecord]:
    """Yield the rows of blocks one by one."""
    for block in blocks:
        if isinstance(block, TableRecord):
            yield block
        else:
            yield from block.records()


def in_blocks(records: Iterator[TableRecord], columns: Sequence[str]) -> Blocks:
    """Yield records together; a column that one lacks is None."""
    while several := [*islice(records, BLOCK)]:
        if any(record.problem for record in several):
            yield from several
        else:
            cells = {name: [record.cells.get(name) for record in several] for name in columns}
            yield RecordBlock([record.line for record in several], cells)


def _delimiter(path: Path, usual: str, lines: Sequence[str], start: int) -> str:
    """Return the separator by which most of the first rows have as many cells as the header."""
    like_header: dict[str, int] = {}
    for delimiter in sorted(SEPARATORS, key=lambda delimiter: delimiter != usual):
        blocks = (rows for _, rows in _in_blocks(lines, delimiter, start))
        first = islice(chain.from_iterable(blocks), FIRST_ROWS)
        counts = [0 if isinstance(cells, str) else len(cells) for cells in first]
        like_header[delimiter] = counts.count(counts[0]) if counts[0] > 1 else 0
    found = max(like_header, key=lambda delimiter: like_header[delimiter])
    if found != usual:
        say(f"{path}: its columns are separated by {SEPARATORS[found]}")
    return found


def _by_column(columns: list[str], blocks: Iterable[_Lines]) -> Blocks:
    for lines, rows in blocks:
        width = len(columns)
        if rows and not isinstance(rows[0], str) and {*map(len, rows)} == {width}:
            yield RecordBlock(lines, dict(zip(columns, zip(*rows, strict=True), strict=True)))
            continue
        for line, cells in zip(lines, rows, strict=True):
            yield _record(columns, line, cells)


def _record(columns: list[str], line: int, cells: list[str] | str) -> TableRecord:
    if isinstance(cells, str):
        return TableRecord(line, {}, cells)
    if len(cells) == len(columns):
        return TableRecord(line, dict(zip(columns, cells, strict=True)))
    problem = f"{len(cells)} fields, but the header has {len(columns)}"
    more = len(cells) > len(columns)
    problem += "; a text that holds the separator needs double quotes" if more else ""
    return TableRecord(line, {}, problem)


def _in_blocks(lines: Sequence[str], delimiter: str, start: int = 0) -> Iterator[_Lines]:
    """Yield the lines of rows, and their cells or why they have none, several at a time."""
    while start < len(lines):
        starts, rows = _whole_rows(start, lines, delimiter)
        if len(starts) == 1:  # the first is broken, or ends in another block
            cells, following = _row_alone(start, lines, delimiter)
            starts, rows = [start, following], [cells]
        lines_of = [start + 1 for start in starts[: len(rows)]]
        if not all(rows):  # some lines are blank
            kept = [(line, cells) for line, cells in zip(lines_of, rows, strict=True) if cells]
            lines_of, rows = [line for line, _ in kept], [cells for _, cells in kept]
        start = starts[-1]
        if rows:
            yield lines_of, rows


def _whole_rows(
    start: int, lines: Sequence[str], delimiter: str
) -> tuple[list[int], list[list[str] | str]]:
    """Return where some rows start, and where the one after them does, and their cells.

    They end before one that is broken, that spans too many lines, or that does not end here.
    """
    block = lines[start : start + BLOCK]
    limit = csv.field_size_limit(MAX_BYTES)  # of the process; the file's own size bounds cells
    try:
        with suppress(csv.Error):
            reader = csv.reader(block, delimiter=delimiter, strict=True)
            rows = list[list[str] | str](reader)
            if reader.line_num == len(rows):  # a line each
                return [*range(start, start + len(rows) + 1)], rows
        starts, rows = [start], list[list[str] | str]()
        reader = csv.reader(_ended(block), delimiter=delimiter, strict=True)
        with suppress(csv.Error):
            for cells in reader:
                if start + reader.line_num - starts[-1] > MAX_SPAN:
                    break
                rows.append(cells)
                starts.append(start + reader.line_num)
        return starts, rows
    finally:
        csv.field_size_limit(limit)


def _row_alone(start: int, lines: Sequence[str], delimiter: str) -> tuple[list[str] | str, int]:
    """Return the cells of one row, or what is wrong with it, and where the next one starts.

    Quotes within quotes are doubled, as in RFC 4180, or come after a backslash, as MySQL and Spark
    write them. Of a row that is broken, the next line is the next one.
    """
    why = ""
    for escape in (None, "\\") if '\\"' in lines[start] else (None,):
        ahead, doubled = _ended(lines[start : start + MAX_SPAN]), escape is None
        reader = csv.reader(
            ahead, delimiter=delimiter, strict=True, escapechar=escape, doublequote=doubled
        )
        limit = csv.field_size_limit(MAX_BYTES)
        try:
            return next(reader), start + reader.line_num
        except csv.Error as error:
            why = "a quote is not closed" if "end of data" in str(error) else str(error)
        finally:
            csv.field_size_limit(limit)
    return f"not valid CSV: {why}", start + 1


def _ended(lines: Iterable[str]) -> Iterator[str]:
    return (f"{line}\n" for line in lines)


def _json_lines(lines: Sequence[str]) -> Iterator[TableRecord]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line.rstrip().removesuffix(","))  # of an array without its brackets
        except ValueError as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else error
            yield TableRecord(number, {}, f"not valid JSON: {why}")
            continue
        if isinstance(value, dict):
            yield TableRecord(number, cast("dict[str, object]", value))
        else:
            yield TableRecord(number, {}, "not a JSON object")
