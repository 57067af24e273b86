"""Which dataset a folder is, of which nothing else is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.data.folders import readable_folder
from contrastive.data.images import images_below
from contrastive.datasets import ImageFolder, Pictures
from contrastive.datasets.image_folder import CAPTION_TABLES
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS
from contrastive.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.datasets import Dataset


def dataset_in(folder: Path) -> Dataset:
    """Return the dataset in a folder: images with captions if there is a table, else images alone.

    Raises:
        DataError: the folder cannot be read, is a run, or holds no images.
    """
    with readable_folder(folder):
        if is_captioned(folder):
            return ImageFolder(folder=folder)
        if (folder / "model").is_dir() or (folder / "checkpoints").is_dir():
            msg = f"{folder}: is a run, not data; a model is given by --model {folder}"
            raise DataError(msg)
        images_below(folder)  # of which there is at least one
    return Pictures(folder=folder)


def is_captioned(folder: Path) -> bool:
    """Return whether a folder, or one of its splits, has a table of captions."""
    places = [folder, *(folder / split for split in (*SPLITS, *SPLIT_ALIASES))]
    return any((place / table).is_file() for place in places for table in CAPTION_TABLES)
