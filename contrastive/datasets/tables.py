"""Tables in any form in which captions are handed around, told apart by suffix and content."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.extras import require
from contrastive.config.local_files import check_regular
from contrastive.console import say
from contrastive.datasets.text_tables import (
    DELIMITERS,
    FIRST_ROWS,
    TableRecord,
    json_lines,
    name_list,
    parse_json,
    quoted,
    read_delimited,
    read_json,
    read_lines,
    text_of,
    text_problem,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Table = tuple[list[str], Iterator[TableRecord]]

FORMS = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
"""Suffixes of tables; those of text may have .gz after them.

Example:
    >>> FORMS[0]
    '.csv'
"""
MOST_ROWS = 20_000_000  # of a Parquet file, whose bytes do not bound them; CC12M has 12 million


def form_of(path: Path) -> str:
    """Return the suffix of a table, without that of its compression.

    Example:
        >>> form_of(Path("captions.csv.gz"))
        '.csv'
    """
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def read_table(path: Path) -> Table:
    """Read a table of text, JSON or Parquet: the columns, and the records one by one.

    The columns of JSON are the keys of all its objects. Where the separator of the suffix leaves
    the header in one piece, the one among ``, ; TAB |`` that does not is taken, and told. A
    ``.json`` file may be an array of objects, lines of them, COCO's captions (columns
    ``file_name``, ``caption``) or Karpathy's (``filename``, ``text``, ``split``).

    Raises:
        DataError: the file cannot be read, is empty, too large or UTF-16, the header is broken, or
            the suffix is another.
        MissingExtra: it is Parquet, and pyarrow is not installed.

    Example:
        >>> columns, records = read_table(Path("photos/captions.csv"))
        >>> columns, next(records).cells["caption"]
        (['image', 'caption', 'split'], 'a red square')
    """
    form = form_of(path)
    if form == ".parquet":
        return _parquet(path)
    if form in (".json", ".jsonl"):
        lines = read_lines(path)
        first = [*islice((line for line in lines if line.strip()), FIRST_ROWS)]
        is_array = first[0].lstrip().startswith("[")
        in_lines = (form == ".jsonl" and not is_array) or (
            len(first) > 1 and 2 * sum(map(_is_object, first)) > len(first)
        )
        columns, records = json_lines(lines) if in_lines else _document(path)
        if not columns and (problem := next((record.problem for record in records), "has no rows")):
            msg = f"{path}:1: {problem}"
            raise DataError(msg)
        return columns, records
    if form in DELIMITERS:
        return read_delimited(path, form)
    msg = f"{path}: a table is a {', '.join(FORMS[:-1])} or {FORMS[-1]} file"
    raise DataError(msg)


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _document(path: Path) -> Table:
    """Read a JSON document: an array of objects, or one that holds such arrays."""
    document = read_json(path)
    if isinstance(document, list):
        entries = cast("list[object]", document)
        rows: Iterator[dict[str, object] | str] = (_object(entry) for entry in entries)
    else:
        fields = _fields(document)
        images, annotations = fields.get("images"), fields.get("annotations")
        if not isinstance(images, list):
            msg = (
                f"{path}:1: is no table; JSON is read as an array of objects, a line each, or in "
                "the form of COCO's captions or of Karpathy's dataset_coco.json"
            )
            raise DataError(msg)
        entries = cast("list[object]", images)
        if any("sentences" in _fields(entry) for entry in entries):
            rows = (_karpathy(entry) for entry in entries)
        else:
            told = cast("list[object]", annotations) if isinstance(annotations, list) else []
            rows = _coco(path, entries, told)
    records = [
        TableRecord(number, {}, row) if isinstance(row, str) else TableRecord(number, row)
        for number, row in enumerate(rows, 1)
    ]
    return list({key: None for record in records for key in record.cells}), iter(records)


def _object(entry: object) -> dict[str, object] | str:
    return cast("dict[str, object]", entry) if isinstance(entry, dict) else "not a JSON object"


def _fields(entry: object) -> dict[str, object]:
    return cast("dict[str, object]", entry) if isinstance(entry, dict) else {}


def _coco(
    path: Path, images: list[object], annotations: list[object]
) -> Iterator[dict[str, object] | str]:
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


def _karpathy(entry: object) -> dict[str, object] | str:
    """Return an image of Karpathy's ``dataset_coco.json``, ``dataset_flickr8k.json``."""
    row = _object(entry)
    if isinstance(row, str):
        return row
    sentences = row.get("sentences")
    several = cast("list[object]", sentences) if isinstance(sentences, list) else []
    captions = [_fields(sentence).get("raw") for sentence in several]
    return {"filename": karpathy_name(row), "text": captions, "split": row.get("split")}


def karpathy_name(image: dict[str, object]) -> object:
    """Return the path of an image in Karpathy's JSON, that of COCO in the folder that it names.

    Example:
        >>> karpathy_name({"filepath": "val2014", "filename": "1.jpg"})
        'val2014/1.jpg'
    """
    folder, name = image.get("filepath"), image.get("filename")
    return f"{folder}/{name}" if isinstance(folder, str) and folder.strip() and name else name


def _parquet(path: Path) -> Table:
    """Read a Parquet file; columns of bytes are left out, but for texts."""
    parquet, arrow = require("pyarrow.parquet", extra="parquet"), require("pyarrow")
    with_file = _named_mistakes(path)

    def open_file() -> Any:
        check_regular(path)
        return parquet.ParquetFile(path)

    file = with_file(open_file)
    schema = file.schema_arrow
    binary = [field.name for field in schema if _is_bytes(field.type, arrow.types)]
    plain = [name for name in binary if not arrow.types.is_struct(schema.field(name).type)]
    texts = with_file(lambda: _columns_of_text(file, plain))
    held = [name for name in binary if name not in texts]
    if held:
        say(f"{path}: {name_list(held)} holds bytes, not names of files; left out")
    columns = [name for name in schema.names if name not in held]
    if len(set(columns)) < len(columns):
        msg = f"{path}: has a column twice; it has {name_list(columns)}"
        raise DataError(msg)
    if file.metadata.num_rows > MOST_ROWS:
        msg = f"{path}: {file.metadata.num_rows:,} rows are too many (limit {MOST_ROWS:,})"
        raise DataError(msg)

    def records() -> Iterator[TableRecord]:
        batches, number = file.iter_batches(columns=columns), 0
        while (batch := with_file(lambda: next(batches, None))) is not None:
            for cells in with_file(batch.to_pylist):
                number += 1
                read = {name: _decoded(cells[name]) for name in texts}
                yield TableRecord(number, cells | read)

    return columns, records()


def _columns_of_text(file: Any, names: list[str]) -> list[str]:
    """Return the columns of bytes whose first rows are UTF-8, as Hive and Impala write texts."""
    first = next(file.iter_batches(FIRST_ROWS, columns=names), None) if names else None
    if first is None:
        return []
    columns = {name: [x for x in first.column(name).to_pylist() if x] for name in names}
    return [name for name, cells in columns.items() if cells and all(map(_is_utf8, cells))]


def _is_utf8(cell: bytes) -> bool:
    return not text_problem(_decoded(cell))


def _decoded(cell: Any) -> Any:
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def _is_bytes(kind: Any, types: Any) -> bool:
    if types.is_struct(kind):  # the hub's {"bytes": ..., "path": ...}
        return any(_is_bytes(kind.field(i).type, types) for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _named_mistakes(path: Path) -> Callable[[Callable[[], Any]], Any]:
    """Return what calls something that reads a Parquet file, and names it in what goes wrong."""

    def call(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except FileNotFoundError:
            msg = f"{path}: no such file"
        except (OSError, ValueError, OverflowError) as error:  # a date of no calendar
            msg = f"{path}: not readable Parquet: {' '.join(str(error).split())[:200]}"
        raise DataError(msg)

    return call
