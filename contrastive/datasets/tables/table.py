"""Tables of any size: all columns but the images are read once; an image when it is needed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.extras import require
from contrastive.config.garbage import garbage_later
from contrastive.console import say
from contrastive.data.content_index import version_of
from contrastive.datasets.captions.splits import ReadCaptions, splits_of
from contrastive.datasets.further_columns import FurtherColumns
from contrastive.datasets.image_addresses import URL_COLUMNS, FilesAndAddresses
from contrastive.datasets.image_folder import LOOKED_IN, NUMBERED
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.arrow_files import PARQUET, is_bytes, named_mistakes, open_arrow
from contrastive.datasets.tables.blocks import (
    joined,
    joined_captions,
    numbered_captions,
    text_blocks,
)
from contrastive.datasets.tables.captions import beginning_of, captions_of
from contrastive.datasets.tables.columns import choose_columns
from contrastive.datasets.tables.files import File, Opened, find_files, with_splits
from contrastive.datasets.tables.forms import OF_ARROW, form_of, read_blocks
from contrastive.datasets.tables.rows import Block, TableRows
from contrastive.datasets.tables.text_decoding import text_problem
from contrastive.datasets.tables.text_tables import DELIMITERS, records_of
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrastive.datasets import SplitReader, Table
    from contrastive.datasets.tables.arrow_files import ArrowFile

USUAL = {
    "image": (
        *("image", "img", "jpg", "png", "file_name", "filename", "filepath", "image_path", "path"),
    ),
    "text": ("text", "caption", "title", "captions", "sentence"),
    "group": ("group", "group_id"),  # not "id", which mostly numbers rows
    "label": ("label",),
    "split": ("split",),
}
LARGE = 8_000_000  # bytes that are read for one image: 5 ms, as long as to decode a photo
OF_PATHS = ("string", "large_string", "string_view")
FIRST = 20  # cells that tell what a column of bytes holds


def reader(config: Table) -> SplitReader:
    """Return what reads splits; the files are read when the first is asked for, and once for all.

    Raises:
        DataError: see ``Table.build``.
        MissingExtra: see ``Table.build``.
    """

    def read() -> ReadCaptions:
        found = _read(config)
        require("pyarrow", extra="parquet").default_memory_pool().release_unused()
        return found

    return splits_of(config, read)


@garbage_later()
def _read(config: Table) -> ReadCaptions:
    files, folder = find_files(config)
    origin = config.repo or (files[0].path if len(files) == 1 else folder)
    opened = [_opened(file, config) for file in files]
    in_column = "split" in opened[0].chosen
    if not in_column and config.split_column is None:
        kept = {*with_splits(files, folder)}
        opened = [each for each in opened if each.file in kept]
    by_name = not in_column and config.split_column is None and bool(opened[0].file.split)
    _check_alike(opened)
    rows = TableRows(opened[0].chosen if not opened[0].image else _without(opened[0].chosen))
    for each in opened:
        before = rows.rows
        for block in _blocks(each):
            rows.add(block, each.file.path)
        each.rows = rows.rows - before
        if each.image and each.table:
            _check_images(each, rows, before)
    place = folder / (config.images or "")
    images = FilesAndAddresses(
        place,
        LOOKED_IN if config.images is None else ("",),
        private=config.private,
        cache_gb=config.cache_gb,
    )
    _tell_of_large(opened)
    built = captions_of(rows, opened, images, by_name=by_name, holdout=config.holdout)
    return ReadCaptions(built, origin, hashed=not in_column and not by_name)


def further_columns(config: Table) -> Iterator[FurtherColumns]:
    """Yield what each file says of rows besides image, text and label."""
    for file in find_files(config)[0]:
        each = _opened(file, config)
        used = {each.chosen.get(role, "") for role in ("image", "text", "label")} | {each.image}
        used |= {name.rpartition(".")[0] for name in used}  # of a field
        names = [
            name for name in each.columns if name and not (name in used or NUMBERED.fullmatch(name))
        ]
        others: list[str] = []
        if each.table:
            others = [name for name in names if not _is_plain(each.table.schema.field(name).type)]
            names = [name for name in names if name not in others]
            rows = _cells(each.table, names, file.path) if names else ()
        else:
            _, blocks = read_blocks(file.path)
            rows = (
                (record.line, [record.cells.get(name) for name in names])
                for record in records_of(blocks)
                if not record.problem
            )
        is_text = form_of(file.path) in DELIMITERS
        yield FurtherColumns(file.path, beginning_of(each), names, rows, is_text, others)


def _is_plain(kind: Any) -> bool:
    types = require("pyarrow", extra="parquet").types
    return not (types.is_nested(kind) or is_bytes(kind))


def _cells(table: ArrowFile, names: list[str], path: Path) -> Iterator[tuple[int, list[Any]]]:
    number, batches, with_file = 0, table.batches(names), named_mistakes(path)
    while (arrays := with_file(lambda: next(batches, None))) is not None:
        columns = [with_file(array.to_pylist) for array in arrays]
        for cells in zip(*columns, strict=True):
            yield number, [*cells]
            number += 1


def _without(chosen: dict[str, str]) -> dict[str, str]:
    return {role: column for role, column in chosen.items() if role != "image"}


def _check_alike(opened: list[Opened]) -> None:
    """Insist on files of which one is like the other.

    Raises:
        DataError: they have other columns.
    """
    first = opened[0]
    for each in opened[1:]:
        if each.chosen.keys() != first.chosen.keys() or bool(each.image) != bool(first.image):
            what = [f"{role}_column {quoted(name)}" for role, name in each.chosen.items()]
            msg = (
                f"{each.file.path}: has {', '.join(what)}, but {first.file.path} has other columns "
                "or images in another form; give tables that are alike"
            )
            raise DataError(msg)


def _opened(file: File, config: Table) -> Opened:
    """Open a file, and choose its columns.

    Raises:
        DataError: it is broken, or lacks a column.
    """
    given = {role: getattr(config, f"{role}_column") for role in USUAL}
    given["image"] = config.url_column or given["image"]
    given["url"] = config.url_column
    if form_of(file.path) not in OF_ARROW:
        columns, _ = read_blocks(file.path)
        columns = numbered_captions(file.path, columns, given["text"], USUAL["text"])
        return Opened(file, _choose(given, file.path, columns), columns)
    table = open_arrow(file.path)
    columns = list(table.schema.names)
    if len(set(columns)) < len(columns):
        msg = f"{file.path}: has a column twice; it has {name_list(columns)}"
        raise DataError(msg)
    columns = numbered_captions(file.path, columns, given["text"], USUAL["text"])
    opened = Opened(file, _choose(given, file.path, columns), columns, table)
    if "image" in opened.chosen:
        opened.image, opened.chosen["image"] = _image_form(table, opened.chosen["image"], file.path)
    opened.version = version_of(file.path)
    opened.labels = _class_names(table.schema, opened.chosen.get("label", ""))
    return opened


def _choose(given: dict[str, str | None], path: Path, columns: list[str]) -> dict[str, str]:
    chosen = choose_columns(given, path, columns, usual=USUAL, needed=())
    addresses = [column for column in columns if column.lower() in URL_COLUMNS]
    if addresses and "image" not in chosen and given["image"] is None:
        what = "if images are there, set url_column to it"
        say(f"{path}: {quoted(addresses[0])} is not read; {what}")
    if not {"image", "text"} & chosen.keys():
        needed = [role for role in ("image", "text") if given[role] != ""]
        chosen = choose_columns(given, path, columns, usual=USUAL, needed=needed or ("text",))
    return chosen


def _image_form(table: ArrowFile, column: str, path: Path) -> tuple[str, str]:
    """Return the column or the field that holds images, if one does, and that which names files.

    Raises:
        DataError: it is no column of images.
    """
    arrow = require("pyarrow", extra="parquet")
    kind = table.schema.field(column).type
    if arrow.types.is_struct(kind):  # the hub's {"bytes": ..., "path": ...}
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        if "bytes" in fields and is_bytes(fields["bytes"]):
            inside = f"{column}.bytes"
            if "path" not in fields or not table.is_empty(inside):
                return inside, column
        if "path" in fields:
            return "", f"{column}.path"
    elif is_bytes(kind):
        first = named_mistakes(path)(lambda: table.first(column, FIRST))
        names = [cell for cell in first if cell]
        return ("", column) if names and all(map(_is_name, names)) else (column, column)
    elif str(kind.value_type if arrow.types.is_dictionary(kind) else kind) in OF_PATHS:
        return "", column
    msg = (
        f"{path}: column {quoted(column)} holds {str(kind)[:80]}, not images; image_column names "
        "one of bytes, of {bytes, path} or of paths, and image_column: '' does without"
    )
    raise DataError(msg)


def _is_name(cell: bytes) -> bool:
    return not text_problem(cell.decode("utf-8", "surrogateescape"))


def _class_names(schema: Any, column: str) -> list[str]:
    """Return the names of classes that are numbers, as ``datasets`` notes them; or nothing."""
    noted = cast("dict[bytes, bytes]", schema.metadata or {})
    if not (about := noted.get(b"huggingface")) or not column:
        return []
    try:
        names = json.loads(about)["info"]["features"][column]["names"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return []
    several = cast("list[Any]", names if isinstance(names, list) else [])
    return [str(name) for name in several]


def _blocks(opened: Opened) -> Iterator[Block]:
    """Yield the rows of a file."""
    chosen = _without(opened.chosen) if opened.image else opened.chosen
    if not opened.table:
        _, blocks = read_blocks(opened.file.path)
        numbered = opened.columns if opened.columns[-1:] == ["text"] else []
        yield from text_blocks(opened.file.path, blocks, chosen, numbered)
        return
    total = int(opened.table.ends_G[-1]) if len(opened.table.ends_G) else 0
    held = [name for name in opened.columns if opened.table.schema.get_field_index(name) >= 0]
    several = joined_captions(held) if chosen.get("text") not in (None, *held) else []
    wanted = [*dict.fromkeys([*chosen.values(), *several])]
    wanted = [name for name in wanted if name in (*held, opened.chosen.get("image"))]
    if not wanted:
        yield Block(total, {}, {})
        return
    with_file = named_mistakes(opened.file.path)
    batches = with_file(lambda: opened.table and opened.table.batches(wanted))
    while (arrays := with_file(lambda: next(batches, None))) is not None:
        cells = dict(zip(wanted, arrays, strict=True))
        if several:
            cells[chosen["text"]] = with_file(lambda cells=cells: joined(cells, several))
        problems: dict[int, str] = {}
        if opened.labels:
            column = chosen["label"]
            cells[column], problems = _named(cells[column], opened.labels, column)
        yield Block(len(arrays[0]), {role: cells[name] for role, name in chosen.items()}, problems)


def _named(numbers: Any, names: list[str], column: str) -> tuple[Any, dict[int, str]]:
    """Return names of classes for their numbers, and what is wrong with some; -1 is none."""
    arrow = require("pyarrow", extra="parquet")
    if not (arrow.types.is_integer(numbers.type) or arrow.types.is_floating(numbers.type)):
        return numbers, {}
    known = dict(enumerate(names)) | {-1: None}
    held = numbers.to_pylist()
    problems = {
        i: f"{quoted(column)} is {number}, but the file has names of {len(names)} classes"
        for i, number in enumerate(held)
        if number is not None and number not in known and not math.isnan(number)
    }
    return arrow.array([known.get(number) for number in held], arrow.string()), problems


def _check_images(opened: Opened, rows: TableRows, start: int) -> None:
    """Note the rows that are known to have no image."""
    assert opened.table
    problem = f"{quoted(opened.chosen['image'])} holds no image"
    empty = named_mistakes(opened.file.path)(
        lambda: opened.table and opened.table.empty_rows(opened.image)
    )
    for row in empty:
        rows.problems.setdefault(start + row, problem)


def _tell_of_large(opened: list[Opened]) -> None:
    """Tell of images of which many have to be read for each."""
    sizes = [
        (each.table.bytes_of_group(each.image), each.file.path)
        for each in opened
        if each.table and each.image
    ]
    large = [(size, path) for size, path in sizes if size > LARGE]
    if not large:
        return
    size, path = large[0]
    more = f" (and {len(large) - 1} more files)" if large[1:] else ""
    say(f"{path}{more}: {size / 1e6:,.0f} MB are read for each image; {smaller_groups(path)}")


def smaller_groups(path: Path) -> str:
    """Return how to write a table so that its images can be read one by one."""
    new = str(path.with_suffix(".images.arrow"))
    batches = f"a.parquet.ParquetFile({str(path)!r}).iter_batches(64)"
    if path.suffix.lower() not in PARQUET:
        batches = f"a.feather.read_table({str(path)!r}).to_batches(64)"
    return (
        "to read them one by one, write the table anew in Python: import pyarrow as a, "
        f"pyarrow.parquet, pyarrow.feather; b = {batches}; f = next(b := iter(b)); "
        f"w = a.ipc.new_file({new!r}, f.schema); w.write(f); [w.write(x) for x in b]; w.close(); "
        f"then set files: {new}"
    )
