"""Tests of what a model makes of small differences: images with a right and a wrong caption.

Read are SugarCrepe's JSON files, Winoground's rows, and tables of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.config.extras import require
from contrastive.config.local_files import check_regular
from contrastive.data.bad_rows import BadRows
from contrastive.data.storage.folders import files_below, readable_folder
from contrastive.datasets.file_index import FileIndex, leaves_folder
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.forms import read_table
from contrastive.datasets.tables.text_decoding import read_json, text_problem
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
MOST = 1_000_000  # tests of a Parquet file, whose bytes do not bound them; SugarCrepe has 7,512
ROWS = 16  # of a Parquet file at a time: their images are decoded copies
FOLDERS = ("images", "val2017")  # of images, beside the file: Winoground's, and SugarCrepe's
IMAGE = ("image", "filename", "file_name")
CAPTION = ("caption", "text")
NEGATIVE = ("negative_caption", "negative")
WINOGROUND = ("image_0", "image_1", "caption_0", "caption_1")


class PairTest(NamedTuple):
    """Images and captions to match."""

    images: tuple[Path | bytes, ...]
    """One, or two; encoded if they were in the file."""
    captions: tuple[str, ...]
    """The first belongs to the first image; of two images, the second to the second."""
    source: str


@dataclass(frozen=True)
class PairTests:
    """The tests of a file, and a report of what was left out."""

    name: str
    tests: list[PairTest]
    bad_rows: BadRows


def read_pair_tests(
    path: Path, *, images: Path | None = None, max_bad: float = 0.01
) -> list[PairTests]:
    """Read a file, or each file of a folder.

    Args:
        path: SugarCrepe's ``{"0": {"filename": ..., "caption": ..., "negative_caption": ...}}``
            (``.json``); a table (``.jsonl``, ``.csv`` or ``.tsv``) with the columns ``image``,
            ``caption`` and ``negative_caption``, or Winoground's ``image_0``, ``image_1``,
            ``caption_0`` and ``caption_1``; a ``.parquet`` file with the same columns, images
            included; or a folder with such files. ``negative_caption`` may be a list, but in
            text tables.
        images: the folder of the images; by default ``images`` or ``val2017`` beside the file,
            else the file's own folder. Names may lack their suffix.
        max_bad: share of the tests of a file that may be bad and left out.

    Raises:
        DataError: a file is missing or broken, a column is missing, or too many tests are bad.
        MissingExtra: a file is Parquet, and pyarrow is not installed.
    """
    path = path.expanduser()
    files = files_below(path, KINDS, what="tests", nested=False) if path.is_dir() else [path]
    return [_read_file(file, images, max_bad) for file in files]


def _read_file(path: Path, images: Path | None, max_bad: float) -> PairTests:
    beside = [path.parent / name for name in FOLDERS if (path.parent / name).is_dir()]
    folder = images.expanduser() if images else beside[0] if beside else path.parent
    files = _Images(folder)
    bad_rows = BadRows(budget=max_bad)
    tests: list[PairTest] = []
    with readable_folder(folder):
        for row in _rows(path):
            problem = row.problem or files.problem_of(row)
            if problem:
                bad_rows.report(row.source, problem)
            else:
                found = tuple(i if isinstance(i, bytes) else files.find(i) for i in row.images)
                tests.append(PairTest(found, tuple(c.strip() for c in row.captions), row.source))
    bad_rows.check(len(tests) + bad_rows.bad)
    if not tests:
        why = f": {bad_rows.lines[0]}" if bad_rows.lines else ""
        msg = f"{path}: no tests{why}"
        raise DataError(msg)
    return PairTests(path.stem, tests, bad_rows)


class _Row(NamedTuple):
    """A test as a file has it."""

    source: str
    images: tuple[str | bytes, ...] = ()
    captions: tuple[str, ...] = ()
    problem: str = ""


class _Images:
    """The files of a folder, with or without their suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = FileIndex(folder)

    def find(self, name: str) -> Path:
        """Return the path of an image; as it was named if there is none."""
        return self.files[str(PurePosixPath(name))]

    def problem_of(self, row: _Row) -> str:
        for image in (image for image in row.images if isinstance(image, str)):
            if flaw := text_problem(image):
                return f"the image name {flaw}"
            if leaves_folder(image):
                return f"image {quoted(image)} is outside the folder"
            if str(PurePosixPath(image)) not in self.files:
                return f"image {quoted(image)} is not in {self.folder}"
        for caption in row.captions:
            if flaw := text_problem(caption):
                return f"a caption {flaw}"
        if len(set(row.captions)) < len(row.captions):
            return f"the captions are the same: {quoted(row.captions[0])}"
        return ""


def _rows(path: Path) -> Iterator[_Row]:
    match path.suffix.lower():
        case ".json":
            return _json_rows(path)
        case ".parquet":
            return _parquet_rows(path)
        case _:
            return _table_rows(path)


def _json_rows(path: Path) -> Iterator[_Row]:
    """Yield the entries of a SugarCrepe file."""
    document = read_json(path)
    if not isinstance(document, dict):
        msg = f"{path}:1: not a JSON object of tests by their number"
        raise DataError(msg)
    for key, entry in cast("dict[str, object]", document).items():
        source = f"{path.name}: entry {quoted(key)}"
        if isinstance(entry, dict):
            yield _row(source, cast("dict[str, object]", entry))
        else:
            yield _Row(source, problem="not a JSON object")


def _table_rows(path: Path) -> Iterator[_Row]:
    columns, records = read_table(path)
    _check_columns(path, columns)
    for record in records:
        source = f"{path.name}:{record.line}"
        if record.problem:
            yield _Row(source, problem=record.problem)
        else:
            yield _row(source, dict(record.cells))


def _parquet_rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a file as the Hugging Face hub has them, images included."""
    parquet = require("pyarrow.parquet", extra="parquet")
    try:
        check_regular(path)
        with parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            _check_rows(path, file.metadata.num_rows)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for cells in cast("list[dict[str, object]]", batch.to_pylist()):
                    number += 1
                    yield _row(f"{path.name}: row {number}", cells)
    except FileNotFoundError:
        msg = f"{path}: no such file"
    except DataError:
        raise
    except (OSError, ValueError) as error:
        msg = f"{path}: not readable Parquet: {' '.join(str(error).split())[:200]}"
    else:
        return
    raise DataError(msg)


def _check_rows(path: Path, rows: int) -> None:
    if rows > MOST:
        msg = f"{path}: {rows:,} tests are too many (limit {MOST:,}); split the file"
        raise DataError(msg)


def _check_columns(path: Path, columns: list[str]) -> None:
    if set(WINOGROUND) <= set(columns):
        return
    for names in (IMAGE, CAPTION, NEGATIVE):
        if not set(names) & set(columns):
            msg = (
                f"{path}:1: no column {' or '.join(names)}; there are: {name_list(columns)}; "
                f"write image, caption and negative_caption, or {', '.join(WINOGROUND)}"
            )
            raise DataError(msg)


def _row(source: str, cells: dict[str, object]) -> _Row:
    if set(WINOGROUND) <= set(cells):
        images = [_image(cells[name]) for name in WINOGROUND[:2]]
        captions = [cells[name] for name in WINOGROUND[2:]]
    else:
        found: list[object] = []
        for names in (IMAGE, CAPTION, NEGATIVE):
            name = next((name for name in names if name in cells), None)
            if name is None:
                return _Row(source, problem=f"has no {' or '.join(names)}")
            found.append(cells[name])
        image, caption, wrong = found
        several = cast("list[object]", wrong) if isinstance(wrong, list) else [wrong]
        images, captions = [_image(image)], [caption, *several]
    usable = tuple(image for image in images if image is not None)
    texts = tuple(caption for caption in captions if isinstance(caption, str))
    if len(usable) < len(images):
        return _Row(source, problem="its image is neither a name nor an image")
    if len(texts) < max(2, len(captions)):
        return _Row(source, problem="a caption or a negative one is missing or not a text")
    return _Row(source, usable, texts)


def _image(cell: object) -> str | bytes | None:
    """Return the name or the content of an image; the Hugging Face hub has both in a cell."""
    if isinstance(cell, dict):
        both = cast("dict[str, object]", cell)
        cell = both.get("bytes") or both.get("path")
    return cell if isinstance(cell, (str, bytes)) else None
