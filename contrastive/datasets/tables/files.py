"""Which files a table consists of, and the split of each, if its name says one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contrastive.console import say
from contrastive.data.storage.folders import files_below, first_of, folders_below, is_hidden
from contrastive.datasets.image_folder import GAP
from contrastive.datasets.quoting import name_list
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, split_named
from contrastive.datasets.tables.forms import FORMS, OF_ARROW, form_of, how_to_convert
from contrastive.datasets.tables.hub_files import hub_folder
from contrastive.errors import DataError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrastive.datasets import Table
    from contrastive.datasets.tables.arrow_files import ArrowFile

OTHERS = tuple(suffix for suffix in FORMS if suffix not in (*OF_ARROW, ".txt"))
ABOUT_DATASETS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""What the library ``datasets`` writes beside tables."""
WORDS = re.compile(r"[-_.]")


class File(NamedTuple):
    """One file of a table."""

    path: Path
    name: str
    """For messages: its path below the folder that all are in."""
    split: str = ""
    """Of all its rows, if its name says one."""


@dataclass
class Opened:
    """One file of a table, and which column has which role."""

    file: File
    chosen: dict[str, str]
    columns: list[str]
    """All of them; those of numbered captions have one more."""
    table: ArrowFile | None = None
    """None for a table of text."""
    image: str = ""
    """The column, or the field of one, that holds bytes; empty, if images are files."""
    rows: int = 0
    version: str = ""
    labels: list[str] = field(default_factory=list[str])
    """Names of classes that are numbers."""


def find_files(config: Table) -> tuple[list[File], Path]:
    """Return the files of a table, in the order of their names, and the folder that they are in.

    Raises:
        DataError: there are none, or one is of no form that is read.
    """
    root = hub_folder(config.repo, config.revision) if config.repo else Path()
    given = config.files if isinstance(config.files, list) else [config.files or ""]
    found: dict[Path, str] = {}
    for each in given:
        for path, split in _named_by(root / Path(each).expanduser()):
            found.setdefault(path, split)
    for path in found:
        if form_of(path) not in (*OF_ARROW, *FORMS):
            known = ", ".join((*OF_ARROW, *OTHERS))
            convert = how_to_convert(path) or "write it as one"
            msg = f"{path}: a table is one of {known}; {convert}"
            raise DataError(msg)
    folder = _common([*found])
    return [File(path, path.relative_to(folder).as_posix(), found[path]) for path in found], folder


def with_splits(files: list[File], folder: Path) -> list[File]:
    """Return the files whose names say a split, if some do; else all."""
    if not (named := [file for file in files if file.split]):
        return files
    if others := [file.name for file in files if not file.split]:
        say(f"{folder}: {name_list(others)}: the name says no split, as others do; left out")
    return named


def _named_by(given: Path) -> Iterable[tuple[Path, str]]:
    """Return the files that a path, a pattern or a folder names, and the split of each.

    Raises:
        DataError: there are none.
    """
    try:
        return _files_and_splits(given)
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        # a name that is too long, a folder that may not be read, a pattern such as a**
        msg = f"{str(given)[:200]}: {reason_of(error)}"
        raise DataError(msg) from None


def _files_and_splits(given: Path) -> Iterable[tuple[Path, str]]:
    if GAP not in str(given):
        return [(path, _split_in(below)) for path, below in _at(given)]
    found: list[tuple[Path, str]] = []
    for name in (*SPLITS, *SPLIT_ALIASES):
        path = Path(str(given).replace(GAP, name))
        if has_magic(str(path)) or path.exists():
            files = _at(path, needed=False)
            found += [(each, SPLIT_ALIASES.get(name, name)) for each, _ in files]
    if not found:
        looked = ", ".join(str(given).replace(GAP, name) for name in SPLITS)
        msg = f"{given}: no such file; looked for {looked}"
        raise DataError(msg)
    return found


def _at(path: Path, *, needed: bool = True) -> list[tuple[Path, str]]:
    """Return files, and the part of the path of each that may say its split."""
    if has_magic(str(path)) and not path.exists():
        parts = path.parts
        fixed = Path(*parts[: next(i for i, part in enumerate(parts) if has_magic(part))])
        found = sorted(fixed.glob(str(path.relative_to(fixed))))
        files = [each for each in found if each.is_file() and not is_hidden(each.name)]
        if needed and not files:
            msg = f"{path}: no file fits this pattern"
            raise DataError(msg)
        return [(each, str(each.relative_to(fixed.parent))) for each in files]
    if path.is_dir():
        try:
            files = files_below(path, OF_ARROW, what="Parquet or Arrow files")
            _tell_of_text(path)
        except DataError as error:
            try:
                files = files_below(path, OTHERS, what="tables")
            except DataError:
                raise error from None
        return [(each, str(each.relative_to(path.parent))) for each in files]
    if needed and not path.is_file():
        msg = f"{path}: no such file"
        raise DataError(msg)
    return [(path, path.name)] if path.is_file() else []


def _tell_of_text(folder: Path) -> None:
    """Tell of tables of text beside those of Arrow; what the hub says of a dataset is none."""
    others = [
        path
        for parent, _, names in folders_below(folder, tell=False)
        for path in (parent / name for name in names)
        if form_of(path) in OTHERS and not (is_hidden(path.name) or path.name in ABOUT_DATASETS)
    ]
    if others:
        what = "left out, since there are Parquet or Arrow files; to read it, name it"
        say(f"{first_of(others)}: {what}: files: {min(others)}")


def _common(paths: list[Path]) -> Path:
    """Return the folder that all files are in."""
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _split_in(name: str) -> str:
    """Return the split that the name of a file says, or that of a folder that it is in."""
    for part in reversed(Path(name).with_suffix("").parts):
        for word in WORDS.split(part):
            if split := split_named(word):
                return split
    return ""
