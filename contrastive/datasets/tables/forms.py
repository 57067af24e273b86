"""Tables in any form in which captions are handed around, told apart by suffix and content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.arrow_files import ARROW, PARQUET, named_mistakes, open_arrow
from contrastive.datasets.tables.json_tables import read_json_table
from contrastive.datasets.tables.text_decoding import text_problem
from contrastive.datasets.tables.text_tables import (
    DELIMITERS,
    FIRST_ROWS,
    RecordBlock,
    TableRecord,
    in_blocks,
    read_delimited,
    records_of,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.datasets.tables.arrow_files import ArrowFile
    from contrastive.datasets.tables.text_tables import Blocks

    Table = tuple[list[str], Iterator[TableRecord]]

OF_ARROW = (*PARQUET, *ARROW)
FORMS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", *OF_ARROW)
"""Suffixes of tables; those of text may have .gz after them.

Example:
    >>> FORMS[0]
    '.csv'
"""
JSON = (".json", ".jsonl", ".ndjson")
OTHER_FORMS = {
    **dict.fromkeys((".xlsx", ".xlsm"), ("read_excel", "pandas openpyxl")),
    ".orc": ("read_orc", "pandas pyarrow"),
    **dict.fromkeys((".zip", ".bz2", ".xz"), ("read_csv", "pandas")),
}
"""Tables that are not read: what of pandas reads each, and the packages that it needs."""
AT_A_TIME = 4096  # rows of a Parquet or an Arrow file
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
    """Read a table of text, JSON, Parquet or Arrow: the columns, and the records one by one.

    The columns of JSON are the keys of all its objects. Where the separator of the suffix leaves
    the header in one piece, the one among ``, ; TAB |`` that does not is taken, and told. A
    ``.json`` file may be an array of objects, lines of them, what pandas writes, an object by the
    name of each image, COCO's captions (columns ``file_name``, ``caption``) or Karpathy's
    (``filename``, ``text``, ``split``).

    Raises:
        DataError: the file cannot be read, is empty, too large or of another encoding than UTF-8
            and UTF-16, the header is broken, or the suffix is another.
        MissingExtra: it is Parquet or Arrow, and pyarrow is not installed.

    Example:
        >>> columns, records = read_table(Path("photos/captions.csv"))
        >>> columns, next(records).cells["caption"]
        (['image', 'caption', 'split'], 'a red square')
    """
    if form_of(path) in JSON:
        return read_json_table(path, form_of(path))
    columns, blocks = read_blocks(path)
    return columns, records_of(blocks)


def read_blocks(path: Path) -> tuple[list[str], Blocks]:
    """Read a table as ``read_table`` does, but for several rows at a time, by column.

    Raises:
        DataError: as ``read_table``.
        MissingExtra: as ``read_table``.
    """
    form = form_of(path)
    if form in OF_ARROW:
        return _arrow(path)
    if form in JSON:
        columns, records = read_json_table(path, form)
        return columns, in_blocks(records, columns)
    if form in DELIMITERS:
        return read_delimited(path, form)
    known = f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"
    msg = f"{path}: a table is a {known} file; {how_to_convert(path) or 'write it as one'}"
    raise DataError(msg)


def how_to_convert(path: Path) -> str:
    """Return how Python writes a table that is not read as a CSV; "" if there is no such way."""
    reader, packages = OTHER_FORMS.get(path.suffix.lower(), ("", ""))
    if not reader or not path.is_file():
        return ""
    csv = path.with_name(f"{path.name.partition('.')[0]}.csv")
    return (
        f"write it as one in Python (pip install {packages}): import pandas; "
        f"pandas.{reader}({str(path)!r}).to_csv({str(csv)!r}, index=False)"
    )


def images_inside(path: Path) -> str:
    """Return what reads a table that holds the images themselves; "" if it holds none.

    Raises:
        DataError: it cannot be read.
    """
    if form_of(path) not in OF_ARROW:
        return ""
    held = _columns_of_bytes(path, open_arrow(path))
    if not held:
        return ""
    return f"{path}: {quoted(held[0])} holds the images themselves; take type: table, files: {path}"


def _columns_of_bytes(path: Path, file: ArrowFile) -> list[str]:
    """Return the columns that hold images, or other bytes that are no texts."""
    schema, types = file.schema, require("pyarrow", extra="parquet").types
    binary = [field.name for field in schema if _is_bytes(field.type, types)]
    structs = [name for name in binary if types.is_struct(schema.field(name).type)]
    plain = [name for name in binary if name not in structs]
    empty = [name for name in structs if file.is_empty(f"{name}.bytes")]  # its path is the image
    texts = named_mistakes(path)(lambda: _columns_of_text(file, plain))
    return [name for name in binary if name not in (*texts, *empty)]


def _arrow(path: Path) -> tuple[list[str], Blocks]:
    """Read a Parquet or an Arrow file; columns of bytes are left out, but for texts."""
    with_file, file = named_mistakes(path), open_arrow(path)
    names = list[str](file.schema.names)
    held = with_file(lambda: _columns_of_bytes(path, file))
    if held:
        say(f"{path}: {name_list(held)} holds bytes, not names of files; left out")
    columns = [name for name in names if name not in held]
    if len(set(columns)) < len(columns):
        msg = f"{path}: has a column twice; it has {name_list(columns)}"
        raise DataError(msg)
    if (rows := int(file.ends_G[-1]) if len(file.ends_G) else 0) > MOST_ROWS:
        msg = f"{path}: {rows:,} rows are too many (limit {MOST_ROWS:,})"
        raise DataError(msg)

    def blocks() -> Blocks:
        batches, number = file.batches(columns, AT_A_TIME), 0
        while (arrays := with_file(lambda: next(batches, None))) is not None:
            cells = [with_file(array.to_pylist) for array in arrays]
            lines = range(number + 1, number + 1 + len(arrays[0]))
            number += len(arrays[0])
            named = zip(columns, cells, strict=True)
            yield RecordBlock(lines, {name: [*map(_decoded, x)] for name, x in named})

    return columns, blocks()


def _columns_of_text(file: ArrowFile, names: list[str]) -> list[str]:
    """Return the columns of bytes whose first rows are UTF-8, as Hive and Impala write texts."""
    columns = {name: [cell for cell in file.first(name, FIRST_ROWS) if cell] for name in names}
    return [name for name, cells in columns.items() if cells and all(map(_is_utf8, cells))]


def _is_utf8(cell: bytes) -> bool:
    return not text_problem(_decoded(cell))


def _decoded(cell: Any) -> Any:
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def _is_bytes(kind: Any, types: Any) -> bool:
    if types.is_struct(kind):  # the hub's {"bytes": ..., "path": ...}
        return any(_is_bytes(kind.field(i).type, types) for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)
