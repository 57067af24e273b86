"""A folder of images with captions in a table, or beside each image."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.config.local_files import ADDRESS
from contrastive.console import say
from contrastive.data.content_index import content_index
from contrastive.data.folders import readable_folder
from contrastive.data.images import SUFFIXES, images_below
from contrastive.datasets.caption_rows import (
    FileIndex,
    Pairs,
    Row,
    gather,
    in_one_split,
    leaves_folder,
)
from contrastive.datasets.conversations import CONVERSATIONS, IMAGE_LISTS, first_answer, one_image
from contrastive.datasets.image_names import image_path, image_problem, outside_problem
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
    SPLIT_ALIASES,
    SPLITS,
    split_folders,
    split_named,
    split_of,
    tell_of_others,
)
from contrastive.datasets.table_columns import (
    caption_list,
    cells_of,
    choose_columns,
    is_no_caption,
    text_of,
)
from contrastive.datasets.tables import form_of, images_inside, read_table
from contrastive.datasets.text_decoding import read_lines
from contrastive.datasets.text_tables import DELIMITERS, TableRecord
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contrastive.datasets import ImageFolder, Purpose

    GroupOf = Callable[[str], str]

COLUMNS = {
    "image": ("image", "file_name", "filename", "filepath", IMAGE_LISTS),
    "text": ("text", "caption", "title", "captions", *CONVERSATIONS),
    "group": ("group", "group_id"),  # not "id", which mostly numbers rows
    "label": ("label",),
    "split": ("split",),
}
NEEDED = ("image", "text", "split")
GAP = "{split}"
NUMBERED = re.compile(r"(captions?|texts?|titles?|sentences?|comments?)[ _-]?\d+", re.IGNORECASE)
"""Columns of several captions of an image."""
OTHER_NAMES = {
    "split": ("set", "subset", "partition", "fold", "phase", "data_split", "is_train"),
    "label": ("class", "class_name", "category"),
}
"""Columns that may have a role, and are only told of."""
SEEN_IMAGES = 1 << 17  # that are remembered, for their other captions; COCO has as many
LOOKED_IN = ("", "images", "Images")  # where a table's names are looked for, if images is not given


class Table(NamedTuple):
    """A captions file."""

    path: Path
    name: str
    """For messages."""
    below: str = ""
    """The folder of its images, relative to the dataset's, with a final /."""
    split: str = ""
    """Of all its rows, if the file's name or folder says so."""


def read(config: ImageFolder, split: str, *, purpose: Purpose) -> Pairs:
    """Read one split.

    Raises:
        DataError: see ``ImageFolder.build``.
    """
    folder = Path(config.folder).expanduser()
    place = "" if GAP in str(config.images) else config.images or ""
    images = folder / place
    index = FileIndex(images, LOOKED_IN if config.images is None else ("",))
    group_of = _content_of(index) if config.group_by == "content" else _itself
    with readable_folder(folder), readable_folder(images):
        if _is_beside(config, folder):
            suffix = str(config.captions or "")[1:] or captions_beside(folder)
            say(f"{folder}: the captions are those of the {suffix} beside each image")
            given = split_folders(images)
            rows = _rows_beside(images, suffix, given, config.holdout, group_of)
            hashed, origin = not given, folder
        else:
            tables = _find_tables(folder, config)
            opened = [_opened(table, index, config, group_of) for table in tables]
            rows = chain.from_iterable(rows for rows, _ in opened)
            hashed = not all(has_splits for _, has_splits in opened)
            origin = tables[0].path if len(tables) == 1 else folder
        return gather(
            in_one_split(rows),
            split=split,
            images=index,
            origin=origin,
            splits=SPLITS if hashed else (),
            captions_per_image=config.captions_per_image if purpose == "training" else None,
            max_bad=config.max_bad,
        )


def _itself(image: str) -> str:
    return image


def _content_of(images: FileIndex) -> GroupOf:
    """Return what gives the content's hash for an image's name; the name, if it is not there."""

    @cache
    def group_of(image: str) -> str:
        if leaves_folder(image) or image not in images:
            return image
        try:
            return content_index().hash_of(images[image]).hex()
        except OSError:  # which is reported when the image is read
            return image

    return group_of


def _is_beside(config: ImageFolder, folder: Path) -> bool:
    if config.captions:
        return str(config.captions) in BESIDE
    return not caption_table(folder) and bool(captions_beside(folder))


def _find_tables(folder: Path, config: ImageFolder) -> list[Table]:
    """Return the captions file, or those of the splits."""
    captions, images = str(config.captions or ""), str(config.images or "")
    if captions and GAP not in captions:
        return [Table(folder / captions, Path(captions).name)]
    if not captions and (path := first_file(folder, CAPTION_TABLES)):
        _tell_which(path)
        return [Table(path, path.name)]
    tables: list[Table] = []
    if captions:
        for name in (*SPLITS, *SPLIT_ALIASES):
            path = folder / captions.replace(GAP, name)
            below = f"{images.replace(GAP, name)}/" if GAP in images else ""
            if path.is_file():
                tables.append(Table(path, path.name, below, SPLIT_ALIASES.get(name, name)))
    else:
        for name, split in split_folders(folder).items():
            if path := first_file(folder / name, CAPTION_TABLES):
                _tell_which(path)
                below = "" if images else f"{name}/"
                tables.append(Table(path, f"{name}/{path.name}", below, split))
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
    table: Table, images: FileIndex, config: ImageFolder, group_of: GroupOf
) -> tuple[Iterator[Row], bool]:
    """Return the rows of a table, and whether each knows its split."""
    columns, records = read_table(table.path)
    given = {role: getattr(config, f"{role}_column") for role in COLUMNS}
    if not given["text"] and not {*COLUMNS["text"]} & {*map(str.lower, columns)}:
        columns, records = _with_captions(table.path, columns, records)
    chosen = _without_header(table.path, columns, given)
    if chosen:
        records = chain([TableRecord(1, {column: column for column in columns})], records)
    else:
        try:
            chosen = choose_columns(
                given, table.path, columns, usual=COLUMNS, needed=("image", "text")
            )
        except DataError as error:
            msg = images_inside(table.path) or f"{error}{_without_names(table.path, columns)}"
            raise DataError(msg) from None
    _tell_of_others(table.path, columns, chosen, given)
    rows = _rows(table, chosen, records, images, config, group_of)
    return rows, bool(table.split or "split" in chosen)


def _with_captions(
    path: Path, columns: list[str], records: Iterator[TableRecord]
) -> tuple[list[str], Iterator[TableRecord]]:
    """Make one column of those that are numbered, caption_1 and so on."""
    several = [column for column in columns if NUMBERED.fullmatch(column)]
    if not several:
        return columns, records
    say(f"{path}: {name_list(several)} are captions of one image")

    def joined(record: TableRecord) -> TableRecord:
        cells = [record.cells.get(column) for column in several]
        texts = [cell for cell in cells if text_of(cell) and not is_no_caption(cell)]
        return record._replace(cells={**record.cells, "text": texts})

    return [*columns, "text"], map(joined, records)


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


def _rows(
    table: Table,
    chosen: dict[str, str],
    records: Iterator[TableRecord],
    images: FileIndex,
    config: ImageFolder,
    group_of: GroupOf,
) -> Iterator[Row]:
    @lru_cache(SEEN_IMAGES)
    def named(cell: str) -> tuple[str, str, str]:
        """Return an image's name, and what is wrong: with the cell, or with where that leads."""
        if problem := image_problem(cell):
            return "", problem, ""
        image = images.name_of(image_path(images, table.below, cell))
        return image, "", outside_problem(images, image, cell)

    @lru_cache(SEEN_IMAGES)
    def split_for(cell: str, group: str) -> str:
        split = cell or split_of(group, config.holdout)
        return split_named(split) or split

    place = f"{table.name}{': row ' if form_of(table.path) in ('.json', '.parquet') else ':'}"
    for record in _captions(records, chosen["text"], table.path):
        source, alone = f"{place}{record.line}", record
        if isinstance(several := record.cells.get(chosen["image"]), list):
            try:
                one = one_image(cast("object", several))
            except ValueError as error:
                yield Row(source, problem=f"{quoted(chosen['image'])} {error}")
                continue
            alone = record._replace(cells={**record.cells, chosen["image"]: one})
        cells, problem = cells_of(alone, chosen, needed=NEEDED)
        image, unnamed, outside = ("", "", "") if problem else named(cells["image"])
        if problem := problem or unnamed:
            yield Row(source, problem=problem)
            continue
        group = cells.get("group") or group_of(image)
        split = split_for(table.split or cells.get("split", ""), group)
        yield Row(source, image, cells["text"], split, group, cells.get("label", ""), outside)


def _captions(records: Iterator[TableRecord], column: str, path: Path) -> Iterator[TableRecord]:
    """Make a record of each caption, where a cell holds several, or of a conversation's answer."""
    told = False
    for record in records:
        given = record.cells.get(column)
        if isinstance(given, str) and "[" not in given:
            yield record
            continue
        cell = caption_list(given)
        if (answer := first_answer(cell)) is not None:
            if not told:
                say(f"{path}: {quoted(column)}: the first answer of each conversation is a caption")
            told = True
            cell = [answer]
        if not isinstance(cell, list):
            yield record
            continue
        for caption in cast("list[object]", cell or [""]):
            yield record._replace(cells={**record.cells, column: caption})


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
