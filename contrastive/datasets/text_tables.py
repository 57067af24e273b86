"""Tables of text that somebody else made: bounded, with the line of every mistake.

A file that is broken as a whole is a ``DataError``. A broken row is a ``TableRecord`` with a
problem; the rows after it are read.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

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
        try:
            for cells, following in _rows_from(start, lines, delimiter):
                if cells:
                    yield start + 1, cells
                start = following
        except csv.Error as error:
            cells, following = _broken_row(start, lines, delimiter, error)
            if cells:
                yield start + 1, cells
            start = following


def _rows_from(
    start: int, lines: list[str], delimiter: str, **quoting: Any
) -> Iterator[tuple[list[str], int]]:
    """Yield the cells of each row, and where the next one starts.

    Quotes within quotes are doubled, as in RFC 4180, unless ``quoting`` says another way.

    Raises:
        csv.Error: of the first row that is broken.
    """
    first = start

    def ahead() -> Iterator[str]:
        for number in range(first, len(lines)):
            if number == start + MAX_SPAN:
                return
            yield lines[number] + "\n"

    reader = csv.reader(ahead(), delimiter=delimiter, strict=True, **quoting)
    while start < len(lines):
        limit = csv.field_size_limit(MAX_BYTES)  # of the process; the file's own size bounds cells
        try:
            cells = next(reader)
        finally:
            csv.field_size_limit(limit)
        start = first + reader.line_num
        yield cells, start


def _broken_row(
    start: int, lines: list[str], delimiter: str, error: csv.Error
) -> tuple[list[str] | str, int]:
    """Read a row with quotes after a backslash, as MySQL and Spark write them, or say what it is.

    What comes back is as ``_rows_from`` has it; of a row that stays broken, the next line.
    """
    if '\\"' in lines[start]:
        try:
            return next(_rows_from(start, lines, delimiter, escapechar="\\", doublequote=False))
        except csv.Error as another:
            error = another
    why = "a quote is not closed" if "end of data" in str(error) else str(error)
    return f"not valid CSV: {why}", start + 1


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
