"""Tables of captions in JSON, as data sets and programs write them: each becomes rows."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, cast

from contrastive.console import say
from contrastive.data.images import SUFFIXES
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.splits import split_named
from contrastive.datasets.tables.columns import text_of
from contrastive.datasets.tables.text_decoding import (
    TextLines,
    check_unique_keys,
    parse_json,
    read_json,
    read_text,
)
from contrastive.datasets.tables.text_tables import FIRST_ROWS, TableRecord, json_lines
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    Object = dict[str, object]
    Rows = Iterable[Object | str]

FORMS_OF_JSON = (
    "JSON is read as an array of objects, a line each, or in the forms of pandas, of COCO's "
    'captions and of Karpathy\'s dataset_coco.json; write [{"image": "0.png", "text": "a dog"}, '
    "...]; with pandas: to_json(path, orient='records')"
)
CAPTIONS = ("text", "caption", "captions")
"""Keys by which an object in an object is known for the row of an image."""


def read_json_table(path: Path, form: str) -> tuple[list[str], Iterator[TableRecord]]:
    """Read a ``.json`` or ``.jsonl`` table, whichever its content is.

    Raises:
        DataError: as ``read_text``, or it is in no form that is known.
    """
    lines = TextLines(read_text(path))
    first = [*islice((line for line in lines if line.strip()), FIRST_ROWS)]
    in_lines = len(first) > 1 and 2 * sum(map(_is_object, first)) > len(first)
    rows = None if in_lines else _rows_of(path, form)
    if rows is None:
        columns, records = json_lines(lines)
    else:
        table = [
            TableRecord(number, {}, row) if isinstance(row, str) else TableRecord(number, row)
            for number, row in enumerate(rows, 1)
        ]
        columns, records = list({key: None for each in table for key in each.cells}), iter(table)
    if not columns and (problem := next((record.problem for record in records), "has no rows")):
        msg = f"{path}:1: {problem}"
        raise DataError(msg)
    return columns, records


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _rows_of(path: Path, form: str) -> Rows | None:
    """Return the rows of a document; None if it is a row by itself, in a file of lines."""
    try:
        document = read_json(path)
    except DataError:
        if form != ".json":
            return None
        raise
    if isinstance(document, list):
        entries = cast("list[object]", document)
        if entries and all(isinstance(entry, list) for entry in entries):
            msg = f"{path}:1: its rows have no names of columns; {FORMS_OF_JSON}"
            raise DataError(msg)
        return map(_object, entries)
    fields = _fields(document)
    if isinstance(fields.get("images"), list) and (rows := _annotated(path, fields)) is not None:
        return rows
    for rows_in in (_in_splits, _split_of_pandas, _nested, _by_column, _by_row):
        if (rows := rows_in(path, fields)) is not None:
            return rows
    if form != ".json":
        return None
    msg = f"{path}:1: is no table; {FORMS_OF_JSON}"
    raise DataError(msg)


def _object(entry: object) -> Object | str:
    return cast("Object", entry) if isinstance(entry, dict) else "not a JSON object"


def _fields(entry: object) -> Object:
    return cast("Object", entry) if isinstance(entry, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _are_objects(value: object) -> bool:
    return bool(_list(value)) and all(isinstance(each, dict) for each in _list(value))


def _in_splits(path: Path, fields: Object) -> Rows | None:
    """Read ``{"train": [row, ...], "val": [...]}``."""
    if not fields or not all(map(split_named, fields)) or not any(map(_list, fields.values())):
        return None
    say(f"{path}: its rows are those of {name_list(fields)}, each of that split")
    rows = [(split, _object(each)) for split, value in fields.items() for each in _list(value)]
    return [row if isinstance(row, str) else row | {"split": split} for split, row in rows]


def _split_of_pandas(path: Path, fields: Object) -> Rows | None:
    """Read ``{"columns": [...], "index": [...], "data": [[...], ...]}``."""
    columns = _list(fields.get("columns"))
    if not columns or not isinstance(fields.get("data"), list):
        return None
    if len(set(names := [text_of(name) for name in columns])) < len(names):
        msg = f"{path}: has a column twice; it has {name_list(names)}"
        raise DataError(msg)
    return [
        dict(zip(names, row, strict=True))
        if len(row := _list(each)) == len(names)
        else f"{len(row)} fields, but there are {len(names)} columns"
        for each in _list(fields["data"])
    ]


def _nested(path: Path, fields: Object) -> Rows | None:
    """Read the one array of objects in a document, ``{"version": 1, "data": [row, ...]}``."""
    arrays = [key for key, value in fields.items() if _are_objects(value)]
    if len(arrays) != 1:
        return None
    say(f"{path}: its rows are those of {quoted(arrays[0])}")
    return map(_object, _list(fields[arrays[0]]))


def _by_column(path: Path, fields: Object) -> Rows | None:
    """Read ``{"image": ["0.png", ...], "text": [...]}``, or ``{"image": {"0": "0.png"}, ...}``."""
    several = [*fields.values()]
    if any(map(_is_image, fields)) or len(several) < 2:
        return None
    if all(isinstance(value, list) for value in several) and not all(map(_are_objects, several)):
        lists = [_list(value) for value in several]
        if len({*map(len, lists)}) > 1:
            sizes = ", ".join(f"{quoted(key)} {len(_list(fields[key])):,}" for key in fields)
            msg = f"{path}: its columns differ in length: {sizes}"
            raise DataError(msg)
        return [dict(zip(fields, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if not all(isinstance(value, dict) for value in several):
        return None
    columns = {key: _fields(value) for key, value in fields.items()}
    keys = list({key: None for cells in columns.values() for key in cells})
    if not _count_rows(keys) or _count_rows(fields):
        return None
    named = {key: {"image": key} if _is_image(key) else {} for key in keys}
    return [named[key] | {name: columns[name].get(key) for name in columns} for key in keys]


def _by_row(path: Path, fields: Object) -> Rows | None:
    """Read ``{"0": {"image": "0.png", ...}, ...}``, or captions by the name of their image."""
    of_images = sum(map(_is_image, fields)) * 2 > len(fields)
    entries = [*map(_fields, fields.values())]
    told = 2 * sum(any(key in entry for key in CAPTIONS) for entry in entries) > len(entries)
    numbered = bool(fields) and all(key.isdecimal() for key in fields)
    if not of_images and not (all(entries) and (told or numbered)):
        return None
    check_unique_keys(path)
    names_itself = any(_is_image(str(cell)) for entry in entries for cell in entry.values())
    by_number = numbered and (names_itself or not told)
    return [
        ({} if by_number else {"image": key}) | (_fields(value) or {"text": value})
        for key, value in fields.items()
    ]


def _is_image(key: str) -> bool:
    return key.lower().endswith(SUFFIXES)


def _count_rows(keys: Iterable[str]) -> bool:
    """Say whether keys are numbers or names of images, as of rows rather than of columns."""
    return all(key.isdecimal() or _is_image(key) for key in keys)


def _annotated(path: Path, fields: Object) -> Rows | None:
    """Read the captions of COCO or of Karpathy; None if neither says any."""
    images, annotations = _list(fields["images"]), fields.get("annotations")
    if any("sentences" in _fields(entry) for entry in images):
        return map(_karpathy, images)
    if "annotations" not in fields and _are_objects(images) and "id" not in _fields(images[0]):
        return None  # an array of rows that is called so
    return _coco(path, images, _list(annotations))


def _coco(path: Path, images: list[object], annotations: list[object]) -> Iterator[Object | str]:
    """Yield the captions of ``captions_train2017.json`` and its kin."""
    names: dict[str, set[str]] = defaultdict(set)
    for each in map(_fields, images):
        names[_id(each.get("id"))].add(text_of(each.get("file_name")))
    entries = [_fields(each) for each in annotations]
    if not any("caption" in entry for entry in entries):
        msg = f"{path}: its annotations have no captions; take captions_*.json of COCO"
        raise DataError(msg)
    for entry in entries:
        id_ = _id(entry.get("image_id"))
        found = names[id_] if id_ in names and id_ else set[str]()
        if len(found) == 1:
            yield {"file_name": min(found), "caption": entry.get("caption")}
        elif found:
            yield f"several images have the id {quoted(id_)}"
        else:
            yield f"no image has the id {quoted(id_)}" if id_ else "has no image_id"


def _id(value: object) -> str:
    """Return an id as text, such as it is in JSON, where a list may be one."""
    return text_of(value) or ("" if value is None else str(value))


def _karpathy(entry: object) -> Object | str:
    """Return an image of Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json``."""
    row = _object(entry)
    if isinstance(row, str):
        return row
    captions = [_fields(sentence).get("raw") for sentence in _list(row.get("sentences"))]
    return {"filename": karpathy_name(row), "text": captions, "split": row.get("split")}


def karpathy_name(image: Object) -> object:
    """Return the path of an image in Karpathy's JSON, that of COCO in the folder that it names.

    Example:
        >>> karpathy_name({"filepath": "val2014", "filename": "1.jpg"})
        'val2014/1.jpg'
    """
    folder, name = image.get("filepath"), image.get("filename")
    return f"{folder}/{name}" if isinstance(folder, str) and folder.strip() and name else name
