"""Which dataset a folder is, of which nothing else is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.config.local_files import ADDRESS
from contrastive.data.images import images_below
from contrastive.data.storage.folders import readable_folder
from contrastive.datasets import ClassFolders, Flickr30k, ImageFolder, Table, WebDataset
from contrastive.datasets.known_files import (
    ANNOTATIONS,
    PLACES,
    caption_table,
    captions_beside,
    first_file,
    fitting_type,
    has_arrow,
    has_shards,
    images_by_split,
    other_table,
)
from contrastive.datasets.tables.forms import FORMS, form_of, how_to_convert
from contrastive.errors import DataError

if TYPE_CHECKING:
    from contrastive.datasets import Dataset


def dataset_in(folder: Path) -> Dataset:
    """Return the dataset in a folder: images with captions, Flickr30k, images, shards or a table.

    Raises:
        DataError: the folder cannot be read, is a run, or holds no images.
    """
    with readable_folder(folder):
        if caption_table(folder):
            return ImageFolder(folder=folder)
        if suffix := captions_beside(folder):
            return ImageFolder(folder=folder, captions=Path(f"*{suffix}"))
        if first_file(folder, ANNOTATIONS, PLACES):
            return Flickr30k(folder=folder)
        if (folder / "model").is_dir() or (folder / "checkpoints").is_dir():
            msg = f"{folder}: is a run, not data; a model is given by --model {folder}"
            raise DataError(msg)
        try:
            images_below(folder)  # of which there is at least one
        except DataError as error:
            if has_shards(folder):
                return WebDataset(shards=folder)
            if has_arrow(folder):
                return Table(files=folder)
            msg = f"{error}{fitting_type(folder)}"
            raise DataError(msg) from None
        if table := other_table(folder):
            if convert := how_to_convert(folder / table):
                msg = f"{folder}: {table} may have its captions; {convert}"
                raise DataError(msg)
            fields = f"type=image-folder,folder={folder},captions={table}"
            if images := images_by_split(folder, table):
                fields = f"'{fields},images=\"{images}\"'"
            msg = (
                f"{folder}: {table} may have its captions; to read them, give {fields}; for images "
                f"alone, type=class-folders,folder={folder}"
            )
            raise DataError(msg)
    return ClassFolders(folder=folder)


def dataset_at(place: str) -> Dataset | None:
    """Return the dataset that a folder, a file, a pattern or an address is; None for a spec.

    Raises:
        DataError: a folder with nothing that is known, or a table that is not read.
    """
    path = Path(place)
    if path.is_dir():
        return dataset_in(path)
    return dataset_of(path) if path.is_file() else dataset_named(place)


def dataset_of(file: Path) -> Dataset | None:
    """Return the dataset that a file is: a tar shard or a table; JSON and text may be other things.

    Raises:
        DataError: it is a table that is not read.
    """
    if found := dataset_named(str(file)):
        return found
    if convert := how_to_convert(file):
        msg = f"{file}: {convert}"
        raise DataError(msg)
    return None


def dataset_named(text: str) -> Dataset | None:
    """Return the dataset that a file, a pattern or an address is by the end of its name."""
    form = form_of(Path(text))
    if form == ".tar":
        return WebDataset(shards=text)
    if form in FORMS and form not in (".json", ".txt") and not ADDRESS.match(text):
        return Table(files=Path(text))
    return None
