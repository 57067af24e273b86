"""A folder of images with captions in a table, or beside each image."""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contrastive.config.garbage import garbage_later
from contrastive.config.local_files import ADDRESS
from contrastive.console import say
from contrastive.data.images import SUFFIXES, images_below
from contrastive.data.storage.folders import readable_folder
from contrastive.datasets.captions.cells import CaptionReader
from contrastive.datasets.captions.conversations import CONVERSATIONS, IMAGE_LISTS
from contrastive.datasets.captions.rows import Row
from contrastive.datasets.captions.splits import ReadCaptions, splits_of
from contrastive.datasets.captions.table import CaptionTable
from contrastive.datasets.file_index import leaves_folder
from contrastive.datasets.further_columns import FurtherColumns
from contrastive.datasets.image_addresses import URL_COLUMNS, FilesAndAddresses
from contrastive.datasets.known_files import (
    BESIDE,
    CAPTION_TABLES,
    LOOKED_FOR,
    caption_table,
    captions_beside,
    first_file,
    fitting_type,
)
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.splits import (
    GAP,
    SPLIT_ALIASES,
    SPLITS,
    split_folders,
    split_of,
    tell_of_others,
)
from contrastive.datasets.tables.columns import choose_columns, is_no_caption, text_of
from contrastive.datasets.tables.forms import OF_ARROW, form_of, images_inside, read_blocks
from contrastive.datasets.tables.text_decoding import read_lines
from contrastive.datasets.tables.text_tables import DELIMITERS, TableRecord, records_of
from contrastive.errors import BadSample, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.datasets import ImageFolder, SplitReader
    from contrastive.datasets.captions.cells import GroupOf
    from contrastive.datasets.tables.text_tables import Blocks

COLUMNS = {
    "image": ("image", "file_name", "filename", "filepath", IMAGE_LISTS),
    "text": ("text", "caption", "title", "captions", *CONVERSATIONS),
    "group": ("group", "group_id"),  # not "id", which mostly numbers rows
    "label": ("label",),
    "split": ("split",),
}
NUMBERED = re.compile(r"(captions?|texts?|titles?|sentences?|comments?)[ _-]?\d+", re.IGNORECASE)
"""Columns of several captions of an image."""
OTHER_NAMES = {
    "split": ("set", "subset", "partition", "fold", "phase", "data_split", "is_train"),
    "label": ("class", "class_name", "category"),
}
"""Columns that may have a role, and are only told of."""
LOOKED_IN = ("", "images", "Images")  # where a table's names are looked for, if images is not given


class CaptionFile(NamedTuple):
    """A captions file."""

    path: Path
    name: str
    """For messages."""
    below: str = ""
    """The folder of its images, relative to the dataset's, with a final /."""
    split: str = ""
    """Of all its rows, if the file's name or folder says so."""

    @property
    def place(self) -> str:
        """What the places of its rows begin with."""
        return f"{self.name}{': row ' if form_of(self.path) in ('.json', *OF_ARROW) else ':'}"


def reader(config: ImageFolder) -> SplitReader:
    """Return what reads splits; the table is read when the first is asked for, and once for all.

    Raises:
        DataError: see ``ImageFolder.build``.
    """
    return splits_of(config, lambda: _read(config))


@garbage_later()
def _read(config: ImageFolder) -> ReadCaptions:
    folder = Path(config.folder).expanduser()
    place = "" if GAP in str(config.images) else config.images or ""
    images = folder / place
    index = FilesAndAddresses(
        images,
        LOOKED_IN if config.images is None else ("",),
        private=config.private,
        cache_gb=config.cache_gb,
    )
    group_of = _content_of(index) if config.group_by == "content" else _itself
    captions = CaptionTable(index, in_one_split=True)
    with readable_folder(folder), readable_folder(images):
        if _is_beside(config, folder):
            suffix = str(config.captions or "")[1:] or captions_beside(folder)
            say(f"{folder}: the captions are those of the {suffix} beside each image")
            given = split_folders(images)
            for row in _rows_beside(images, suffix, given, config.holdout, group_of):
                captions.add(row)
            return ReadCaptions(captions.built(), folder, hashed=not given)
        tables = _find_tables(folder, config)
        opened = [_opened(table, captions, index, config, group_of) for table in tables]
        for reader, blocks, _ in opened:
            reader.read(blocks)
        hashed = not all(has_splits for *_, has_splits in opened)
        origin = tables[0].path if len(tables) == 1 else folder
        return ReadCaptions(captions.built(), origin, hashed)


def further_columns(config: ImageFolder) -> Iterator[FurtherColumns]:
    """Yield what each table says of rows besides image, text and label."""
    folder = Path(config.folder).expanduser()
    for table in () if _is_beside(config, folder) else _find_tables(folder, config):
        columns, blocks = read_blocks(table.path)
        given = _given(config)
        if _without_header(table.path, columns, given):
            continue
        chosen = choose_columns(given, table.path, columns, usual=_usual(columns), needed=())
        used = {chosen.get(role) for role in ("image", "text", "label")}
        names = [name for name in columns if name and not (name in used or _is_caption(name))]
        rows = (
            (record.line, [record.cells.get(name) for name in names])
            for record in records_of(blocks)
            if not record.problem
        )
        is_text = form_of(table.path) in DELIMITERS
        yield FurtherColumns(table.path, table.place, names, rows, is_text, [])


def _is_caption(column: str) -> bool:
    return bool(NUMBERED.fullmatch(column))


def _itself(image: str) -> str:
    return image


def _content_of(images: FilesAndAddresses) -> GroupOf:
    """Return what gives the content's hash for an image's name; the name, if it is not there."""
    from contrastive.data.content_hash import sample_key  # torch

    @cache
    def group_of(image: str) -> str:
        if image not in images or (leaves_folder(image) and not images.is_address(image)):
            return image
        try:
            return sample_key(images.image(images.place_of(image) or image), "image").hex()
        except BadSample:  # which is reported when the image is read
            return image

    return group_of


def _is_beside(config: ImageFolder, folder: Path) -> bool:
    if config.captions:
        return str(config.captions) in BESIDE
    return not caption_table(folder) and bool(captions_beside(folder))


def _find_tables(folder: Path, config: ImageFolder) -> list[CaptionFile]:
    """Return the captions file, or those of the splits."""
    captions, images = str(config.captions or ""), str(config.images or "")
    if captions and GAP not in captions:
        return [CaptionFile(folder / captions, Path(captions).name)]
    if not captions and (path := first_file(folder, CAPTION_TABLES)):
        _tell_which(path)
        return [CaptionFile(path, path.name)]
    tables: list[CaptionFile] = []
    if captions:
        for name in (*SPLITS, *SPLIT_ALIASES):
            path = folder / captions.replace(GAP, name)
            below = f"{images.replace(GAP, name)}/" if GAP in images else ""
            if path.is_file():
                tables.append(CaptionFile(path, path.name, below, SPLIT_ALIASES.get(name, name)))
    else:
        for name, split in split_folders(folder).items():
            if path := first_file(folder / name, CAPTION_TABLES):
                _tell_which(path)
                below = "" if images else f"{name}/"
                tables.append(CaptionFile(path, f"{name}/{path.name}", below, split))
    if not tables:
        looked = f"; looked for {LOOKED_FOR}"
        if captions:
            looked = f"; looked for {', '.join(captions.replace(GAP, name) for name in SPLITS)}"
        msg = f"{folder}: no captions{looked}{fitting_type(folder)}"
        raise DataError(msg)
    return tables


def _tell_which(table: Path) -> None:
    others = (table.with_name(name) for name in CAPTION_TABLES if name != table.name)
    if there := [path.name for path in others if path.is_file()]:
        say(f"{table}: read, and not {name_list(there)} beside it; captions says another")


def _opened(
    table: CaptionFile,
    captions: CaptionTable,
    images: FilesAndAddresses,
    config: ImageFolder,
    group_of: GroupOf,
) -> tuple[CaptionReader, Blocks, bool]:
    """Return what reads a table, its rows, and whether each knows its split."""
    columns, blocks = read_blocks(table.path)
    given = _given(config)
    if not given["text"] and not {*COLUMNS["text"]} & {*map(str.lower, columns)}:
        columns, blocks = _with_captions(table.path, columns, blocks)
    chosen = _without_header(table.path, columns, given)
    if chosen:
        blocks = chain([TableRecord(1, {column: column for column in columns})], blocks)
    else:
        try:
            chosen = choose_columns(
                given, table.path, columns, usual=_usual(columns), needed=("image", "text")
            )
        except DataError as error:
            msg = images_inside(table.path) or f"{error}{_without_names(table.path, columns)}"
            raise DataError(msg) from None
    _tell_of_others(table.path, columns, chosen, given)
    reader = CaptionReader(
        captions,
        images,
        chosen,
        path=table.path,
        place=table.place,
        below=table.below,
        split=table.split,
        holdout=config.holdout,
        group_of=group_of,
    )
    return reader, blocks, bool(table.split or "split" in chosen)


def _given(config: ImageFolder) -> dict[str, str | None]:
    """Return the column of each role that the config names."""
    given = {role: getattr(config, f"{role}_column") for role in COLUMNS}
    given["image"] = given["image"] or config.url_column
    return given | {"url": config.url_column}


def _usual(columns: list[str]) -> dict[str, tuple[str, ...]]:
    """Return names of each role's column: addresses of images, if none can be of files."""
    of_files = {*COLUMNS["image"]} & {*map(str.lower, columns)}
    return COLUMNS if of_files else COLUMNS | {"image": (*COLUMNS["image"], *URL_COLUMNS)}


def _with_captions(path: Path, columns: list[str], blocks: Blocks) -> tuple[list[str], Blocks]:
    """Make one column of those that are numbered, caption_1 and so on."""
    several = [column for column in columns if NUMBERED.fullmatch(column)]
    if not several:
        return columns, blocks
    say(f"{path}: {name_list(several)} are captions of one image")

    def joined(record: TableRecord) -> TableRecord:
        cells = [record.cells.get(column) for column in several]
        texts = [cell for cell in cells if text_of(cell) and not is_no_caption(cell)]
        return record._replace(cells={**record.cells, "text": texts})

    return [*columns, "text"], map(joined, records_of(blocks))


def _tell_of_others(
    path: Path, columns: list[str], chosen: dict[str, str], given: dict[str, str | None]
) -> None:
    """Tell of columns that may say the split or the class, by a name that is not known."""
    for role, names in OTHER_NAMES.items():
        others = [column for column in columns if column.lower() in names]
        if others and role not in chosen and given[role] is None:
            what = f"is not read; if it is the {role}, set {role}_column to it"
            say(f"{path}: {quoted(others[0])} {what}")


def _without_header(path: Path, columns: list[str], given: dict[str, str | None]) -> dict[str, str]:
    """Return what is image and text in the two columns of a table of text without a header."""
    known = {name for names in COLUMNS.values() for name in names} | {*given.values()}
    named = [*filter(_names_image, columns)]
    if form_of(path) not in DELIMITERS or len(columns) != 2 or known & {*columns}:
        return {}
    if len(named) != 1:
        return {}
    (text,) = {*columns} - {*named}
    order = " and ".join("images" if name in named else "captions" for name in columns)
    say(f"{path}: has no header; its columns are taken for {order}")
    return {"image": named[0], "text": text}


def _without_names(path: Path, columns: list[str]) -> str:
    """Return what to write into a table of text whose first line is a row already."""
    if form_of(path) not in DELIMITERS:
        return ""
    words = columns[0].split()
    if columns[0].startswith("#"):
        return "; its first line looks like a comment; take it out"
    if any(map(_names_image, columns)):
        return (
            "; its first line looks like a row; put one before it that names the columns, such as "
            f"{','.join(['image', 'text', 'split'][: len(columns)])}"
        )
    if words[1:] and _names_image(words[0]):
        return "; its first line looks like a row; put a tab between the image and its caption"
    return ""


def _names_image(cell: str) -> bool:
    return cell.lower().endswith(SUFFIXES) or bool(ADDRESS.match(cell))


def _rows_beside(
    images: Path, suffix: str, splits: dict[str, str], holdout: float, group_of: GroupOf
) -> Iterator[Row]:
    """Yield each line of the text file beside each image."""
    others: list[str] = []
    for path in images_below(images):
        image = path.relative_to(images).as_posix()
        text = path.with_suffix(suffix)
        top = image.partition("/")[0]
        group = group_of(image)
        split = splits.get(top, "") if splits else split_of(group, holdout)
        if not split:
            others.append(image)
            continue
        if not text.is_file():
            yield Row(image, image, split=split, problem=f"there is no {text.name} beside it")
            continue
        name = text.relative_to(images).as_posix()
        try:
            lines = read_lines(text)
        except DataError as error:
            yield Row(name, image, split=split, problem=str(error))
            continue
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Row(f"{name}:{number}", image, line, split, group)
    tell_of_others(images, others)
