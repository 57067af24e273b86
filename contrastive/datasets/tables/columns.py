"""The columns of a table, of whatever form: which one has which role, and what its cells say."""

from __future__ import annotations

import ast
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from contrastive.console import say
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.text_decoding import parse_json
from contrastive.errors import DataError, is_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from contrastive.datasets.tables.text_tables import TableRecord

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
# as numpy writes an array of texts: without the commas that keep Python from joining them
QUOTED_LIST = re.compile(rf"\[\s*(?:{QUOTED.pattern})(?:\s+(?:{QUOTED.pattern}))*\s*\]")
NO_VALUE = frozenset(("\\N", "NULL", "NaN", "nan", "<NA>"))  # as programs write what is not there
NO_CAPTION = NO_VALUE | {"null", "None", "NA", "N/A", "#N/A"}  # which may be names of classes


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
            Under "url" stands that of the images, if it came from url_column.
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
            is_url = role == "image" and given.get("url")
            remedies.append("url_column" if is_url else f"{role}_column")
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
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())
