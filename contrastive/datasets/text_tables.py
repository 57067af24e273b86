"""Tables of text that somebody else made: bounded, with the line of every mistake.

A file that is broken as a whole is a ``DataError``. A broken row is a ``TableRecord`` with a
problem; the rows after it are read.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.console import say
from contrastive.datasets.quoting import name_list
from contrastive.datasets.text_decoding import MAX_BYTES, parse_json, read_lines
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

FIRST_ROWS = 100  # rows, to tell the form of a table
MAX_SPAN = 100  # lines of one quoted record; more is a quote that nobody closed
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ","}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL = re.compile(r'"?sep=.?"?\r?', re.IGNORECASE)  # its first line, which names the separator


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


def json_lines(lines: Sequence[str]) -> tuple[list[str], Iterator[TableRecord]]:
    """Read a JSON object a line: the keys of all of them, and the records one by one."""
    columns = {key: None for record in _json_lines(lines) for key in record.cells}
    return list(columns), _json_lines(lines)


def read_delimited(path: Path, form: str) -> tuple[list[str], Iterator[TableRecord]]:
    """Read a table of text whose suffix is ``form``, ``.csv`` and its kin.

    Raises:
        DataError: as ``read_text``, or the header is broken.
    """
    lines = read_lines(path)
    if EXCEL.fullmatch(lines[0]):
        lines[0] = ""  # which counts as a line
    rows = _delimited(lines, _delimiter(path, DELIMITERS[form], lines))
    line, header = next(rows)
    if isinstance(header, str):
        msg = f"{path}:{line}: the header is {header}"
        raise DataError(msg)
    columns = [column.strip() for column in header]
    named = [column for column in columns if column]  # Excel writes columns that are empty
    if len(set(named)) < len(named):
        msg = f"{path}:{line}: the header names a column twice; it has {name_list(columns)}"
        raise DataError(msg)
    return columns, _records(columns, rows)


def _delimiter(path: Path, usual: str, lines: list[str]) -> str:
    """Return the separator by which most of the first rows have as many cells as the header."""
    like_header: dict[str, int] = {}
    for delimiter in sorted(SEPARATORS, key=lambda delimiter: delimiter != usual):
        first = islice(_delimited(lines, delimiter), FIRST_ROWS)
        counts = [0 if isinstance(cells, str) else len(cells) for _, cells in first]
        like_header[delimiter] = counts.count(counts[0]) if counts[0] > 1 else 0
    found = max(like_header, key=lambda delimiter: like_header[delimiter])
    if found != usual:
        say(f"{path}: its columns are separated by {SEPARATORS[found]}")
    return found


def _records(
    columns: list[str], rows: Iterable[tuple[int, list[str] | str]]
) -> Iterator[TableRecord]:
    for line, cells in rows:
        if isinstance(cells, str):
            yield TableRecord(line, {}, cells)
        elif len(cells) != len(columns):
            problem = f"{len(cells)} fields, but the header has {len(columns)}"
            more = len(cells) > len(columns)
            problem += "; a text that holds the separator needs double quotes" if more else ""
            yield TableRecord(line, {}, problem)
        else:
            yield TableRecord(line, dict(zip(columns, cells, strict=True)))


def _delimited(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line and the cells of each row, or why it has none; go on with the next line."""
    start = 0
    while start < len(lines):
        limit = csv.field_size_limit(MAX_BYTES)  # of the process; the file's own size bounds cells
        try:
            cells, read = _next_row(lines, start, delimiter)
        except csv.Error as error:
            why = "a quote is not closed" if "end of data" in str(error) else str(error)
            yield start + 1, f"not valid CSV: {why}"
            start += 1
        else:
            if cells:
                yield start + 1, cells
            start += read
        finally:
            csv.field_size_limit(limit)


def _next_row(lines: list[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the row that starts at a line, and how many lines it takes.

    Quotes within quotes are doubled, as in RFC 4180; where that is not so, after a backslash, as
    MySQL and Spark write them.
    """

    def read(escape: str | None) -> tuple[list[str], int]:
        ahead = (line + "\n" for line in lines[start : start + MAX_SPAN])
        reader = csv.reader(
            ahead, delimiter=delimiter, strict=True, escapechar=escape, doublequote=not escape
        )
        return next(reader), reader.line_num

    try:
        return read(None)
    except csv.Error:
        if '\\"' not in lines[start]:
            raise
    return read("\\")


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
