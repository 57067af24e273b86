"""The forms of text in which the captions of Flickr30k are handed around, all read to rows.

``results_20130124.token`` (Young et al., 2014) and Kaggle's ``results.csv`` have a line a caption
and no splits. ``dataset_flickr30k.json`` (Karpathy and Fei-Fei, 2015) and the Hugging Face copy's
``flickr_annotations_30k.csv`` have an entry an image and its split.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.datasets.captions.rows import Row
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.forms import read_table
from contrastive.datasets.tables.json_tables import karpathy_name
from contrastive.datasets.tables.text_decoding import (
    parse_json,
    read_json,
    read_lines,
    text_problem,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Reader = Callable[[Path], Iterator[Row]]


def reader_of(path: Path) -> Reader:
    """Return the reader of a file's form, by its suffix and first line.

    Raises:
        DataError: the file cannot be read.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise DataError(msg)
    if path.suffix.lower() == ".json":
        return karpathy
    if path.suffix.lower() == ".csv":
        with path.open("rb") as file:
            return kaggle if b"|" in file.readline(1000) else hugging_face
    return original


def says_splits(reader: Reader) -> bool:
    """Say whether the rows of a form know their split."""
    return reader in (karpathy, hugging_face)


def karpathy(path: Path) -> Iterator[Row]:
    """Read ``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``, maybe a filepath.

    Raises:
        DataError: the file is not such a document.
    """
    document = read_json(path)
    images = cast("dict[str, object]", document).get("images") if isinstance(document, dict) else 0
    if not isinstance(images, list):
        msg = f"{path}:1: there is no list 'images'; is it Karpathy's dataset_flickr30k.json?"
        raise DataError(msg)
    seen: set[str] = set()
    for index, image in enumerate(cast("list[object]", images)):
        source = f"{path.name}: image {index}"
        if not isinstance(image, dict):
            yield Row(source, problem="not an object with filename, split and sentences")
            continue
        entry = cast("dict[str, object]", image)
        sentences = entry.get("sentences")
        captions = [
            cast("dict[str, object]", sentence).get("raw") if isinstance(sentence, dict) else None
            for sentence in (cast("list[object]", sentences) if isinstance(sentences, list) else [])
        ]
        yield from captions_of(source, karpathy_name(entry), entry.get("split"), captions, seen)


def hugging_face(path: Path) -> Iterator[Row]:
    """Read a CSV with the columns filename, split, and raw: a JSON list of captions.

    Raises:
        DataError: the file is not such a table.
    """
    columns, records = read_table(path)
    if missing := [name for name in ("raw", "split", "filename") if name not in columns]:
        msg = f"{path}:1: no column {name_list(missing)}; there are: {name_list(columns)}"
        raise DataError(msg)
    seen: set[str] = set()
    for line, cells, problem in records:
        source = f"{path.name}:{line}"
        if problem:
            yield Row(source, problem=problem)
            continue
        try:
            raw = parse_json(str(cells["raw"]))
        except ValueError:
            raw = None
        captions = cast("list[object]", raw) if isinstance(raw, list) else []
        yield from captions_of(source, cells["filename"], cells["split"], captions, seen)


def captions_of(
    source: str, image: object, split: object, captions: list[object], seen: set[str]
) -> Iterator[Row]:
    """Yield the captions of one image, each judged, for only here is its number known.

    ``seen`` gathers the images that were met.
    """
    if not isinstance(image, str) or text_problem(image):
        yield Row(source, problem="no filename")
    elif not isinstance(split, str) or text_problem(split):
        yield Row(source, image, problem=f"image {quoted(image)} has no split")
    elif image in seen:
        yield Row(source, image, split=split, problem=f"image {quoted(image)} was here before")
    elif not captions:
        yield Row(source, image, split=split, problem=f"image {quoted(image)} has no captions")
    else:
        seen.add(image)
        for number, text in enumerate(captions):
            flaw = text_problem(text) if isinstance(text, str) else "is not a text"
            problem = f"caption {number} {flaw}" if flaw else ""
            caption = text if isinstance(text, str) else ""
            yield Row(source, image, caption, split, problem=problem)


class _Comment(NamedTuple):
    image: str
    number: str
    text: str
    note: str = ""


def original(path: Path) -> Iterator[Row]:
    """Read lines ``NAME#NUMBER<tab>CAPTION``."""
    return _comments(path, read_lines(path), start=1, split=_split_at_tab)


def kaggle(path: Path) -> Iterator[Row]:
    """Read lines ``NAME| NUMBER| CAPTION`` after a header; quotes mean nothing.

    Raises:
        DataError: the header is another.
    """
    header, *lines = read_lines(path)
    columns = [column.strip() for column in header.split("|")]
    if columns != ["image_name", "comment_number", "comment"]:
        msg = (
            f"{path}:1: the columns are {name_list(columns)}, not image_name|comment_number|comment"
        )
        raise DataError(msg)
    return _comments(path, lines, start=2, split=_split_at_pipes)


def _split_at_tab(line: str) -> _Comment | None:
    head, *texts = line.split("\t")
    image, sharp, number = head.rpartition("#")
    return _Comment(image, number, texts[0]) if sharp and len(texts) == 1 else None


def _split_at_pipes(line: str) -> _Comment | None:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) == 3:
        return _Comment(*fields)
    # Kaggle's copy has "2199200615.jpg| 4   A dog runs across the grass ." on line 20001
    if len(fields) == 2 and (lost := re.fullmatch(r"([0-9])\s+(\S.*)", fields[1])):
        return _Comment(fields[0], lost[1], lost[2], "a | is missing after the number; mended")
    return None


def _comments(
    path: Path, lines: list[str], *, start: int, split: Callable[[str], _Comment | None]
) -> Iterator[Row]:
    """Yield a row for each line that is not blank."""
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, start):
        if not line.strip():
            continue
        source = f"{path.name}:{number}"
        comment = split(line)
        if comment is None:
            yield Row(source, problem=f"cannot be split into name, number, caption: {quoted(line)}")
        elif not re.fullmatch(r"[0-9]{1,3}", comment.number):
            problem = f"{quoted(comment.number)} is not a caption's number"
            yield Row(source, comment.image, problem=problem)
        elif comment[:2] in seen:
            problem = f"image {quoted(comment.image)} has a caption {comment.number} already"
            yield Row(source, comment.image, problem=problem)
        else:
            seen.add(comment[:2])
            yield Row(source, comment.image, comment.text, note=comment.note)
