"""Tables of text that somebody else made: bounded, with the line of every mistake.

A file that is broken as a whole is a ``DataError``. A broken row is a ``TableRecord`` with a
problem; the rows after it are read.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from contrastive.console import say
from contrastive.datasets.text_files import MAX_BYTES, parse_json, read_lines
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

FIRST_ROWS = 100  # rows, to tell the form of a table
MAX_SPAN = 100  # lines of one quoted record; more is a quote that nobody closed
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": ","}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
# as numpy writes an array of texts: without the commas that keep Python from joining them
QUOTED_LIST = re.compile(rf"\[\s*(?:{QUOTED.pattern})(?:\s+(?:{QUOTED.pattern}))*\s*\]")
NO_VALUE = frozenset(("\\N", "NULL", "NaN", "nan", "<NA>"))  # as programs write what is not there
NO_CAPTION = NO_VALUE | {"null", "None", "NA", "N/A", "#N/A"}  # which may be names of classes
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


def choose_columns(
    given: Mapping[str, str | None],
    path: Path,
    columns: Sequence[str],
    *,
    usual: Mapping[str, Sequence[str]],
    needed: Sequence[str],
) -> dict[str, str]:
    """Return the column of each role that there is a column for.

    Args:
        given: the name that a spec says, by role; "" does without a column that is not needed.
        path: the table, for the message.
        columns: those that it has.
        usual: names by which each role is found otherwise.
        needed: roles that have to have a column.

    Raises:
        DataError: needed columns, or those that a spec names, are not there; says which there are.

    Example:
        >>> usual = {"image": ["image", "filename"], "text": ["caption"]}
        >>> columns = ["filename", "caption"]
        >>> choose_columns({}, Path("t.csv"), columns, usual=usual, needed=["image", "text"])
        {'image': 'filename', 'text': 'caption'}
    """
    chosen: dict[str, str] = {}
    missing: list[str] = []
    remedies: list[str] = []
    known = {column.lower(): column for column in columns} | {column: column for column in columns}
    for role, names in usual.items():
        asked = given.get(role)
        if asked == "" and role not in needed:
            continue
        fitting = [*dict.fromkeys(known[name] for name in names if name in known)]
        if asked:
            fitting = [asked] if asked in columns else []
        if fitting[1:]:
            there = name_list(fitting)
            say(f"{path}: of {there}, the first is taken; {role}_column names another")
        if fitting:
            chosen[role] = fitting[0]
        elif asked or role in needed:
            missing.append(quoted(asked) if asked else " or ".join(names))
            remedies.append(f"{role}_column")
    if missing:
        remedy = f"set {' and '.join(remedies)}"
        if len(columns) == 1 < len(needed):
            remedy = "there is one column; separate columns by a comma, semicolon, tab or |"
        msg = (
            f"{path}:1: no column {', nor '.join(missing)}; there are: {name_list(columns)}; "
            f"{remedy}"
        )
        raise DataError(msg)
    return chosen


def caption_list(cell: object) -> object:
    """Return the texts of a cell that lists several, as JSON, Python or numpy do; else the cell.

    Example:
        >>> caption_list('["a dog", "a cat"]'), caption_list("[laughs] a dog")
        (['a dog', 'a cat'], '[laughs] a dog')
    """
    if not (isinstance(cell, str) and cell.strip()[:1] == "[" and cell.strip()[-1:] == "]"):
        return cell
    text = cell.strip()
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        if QUOTED_LIST.fullmatch(text):
            return [ast.literal_eval(found[0]) for found in QUOTED.finditer(text)]
    for parse in (parse_json, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value: object = parse(text)
            several = cast("list[object]", value) if isinstance(value, list) else [None]
            if not several or any(isinstance(each, str) for each in several):
                return several
    return cell


def text_of(cell: object) -> str:
    """Return a cell as text; nothing if it is of another kind.

    Example:
        >>> text_of(12), text_of(12.0), text_of(1.5), text_of(None)
        ('12', '12', '1.5', '')
    """
    if isinstance(cell, dict):  # the hub's {"bytes": None, "path": "0.png"}
        held = cast("dict[str, object]", cell)
        cell = held.get("path") if "path" in held and not held.get("bytes") else None
    if isinstance(cell, float) and cell.is_integer():  # as pandas writes a column with gaps
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)):
        return ""
    if isinstance(cell, float) and not math.isfinite(cell):
        return ""
    return str(cell).strip()


def cells_of(
    record: TableRecord, chosen: Mapping[str, str], *, needed: Collection[str]
) -> tuple[dict[str, str], str]:
    """Return a record's texts by role, and why it cannot be used, if it cannot.

    Args:
        record: of a table.
        chosen: the column of each role.
        needed: roles that every row has to have; in others, what is blank or null is not there.

    Example:
        >>> record = TableRecord(2, {"image": "1.png", "label": None})
        >>> cells_of(record, {"image": "image", "label": "label"}, needed=["image"])
        ({'image': '1.png'}, '')
    """
    cells: dict[str, str] = {}
    problem = ""
    for role, column in chosen.items():
        cell = record.cells.get(column)
        nothing = NO_CAPTION if role == "text" else NO_VALUE
        if isinstance(cell, str) and (text := cell.strip()):
            if text not in nothing:
                cells[role] = text
                continue
            if role in needed:
                problem = problem or f"{quoted(column)} is {quoted(text)}: no value"
            cell = None
        if (text := text_of(cell)) or role in needed:
            cells[role] = text
        if not text and role in needed:
            problem = problem or f"{quoted(column)} is empty or not a text"
        elif not text and not _is_blank(cell):
            without = f"{role}_column: '' does without it"
            problem = problem or f"{quoted(column)} is not a text; {without}"
    return cells, record.problem or problem


def is_no_caption(cell: object) -> bool:
    """Say whether a cell is what programs write where there is no caption.

    Example:
        >>> is_no_caption("NULL"), is_no_caption("a dog")
        (True, False)
    """
    return isinstance(cell, str) and cell in NO_CAPTION


def _is_blank(cell: object) -> bool:
    nothing = isinstance(cell, str) and not cell.strip()
    return cell is None or nothing or (isinstance(cell, float) and math.isnan(cell))


def quoted(text: str) -> str:
    """Return a text from a file as one short line fit for a message.

    Example:
        >>> print(quoted("a red square"))
        'a red square'
    """
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def name_list(names: Iterable[str]) -> str:
    """Return names from a file for a message: the first ten.

    Example:
        >>> name_list(["train", "val"])
        "'train', 'val'"
    """
    several = list(names)
    return ", ".join(map(quoted, several[:10])) + (", ..." if len(several) > 10 else "")
