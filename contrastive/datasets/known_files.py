"""What a folder is known by: the names of captions and annotations, and the type that reads it."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from contrastive.data.images import SUFFIXES
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CAPTION_TABLES = (
    *("captions.csv", "captions.tsv", "captions.jsonl", "captions.txt"),
    *("metadata.csv", "metadata.tsv", "metadata.jsonl"),
)
"""Names of a table of captions beside images, in the order in which they are looked for.

Example:
    >>> CAPTION_TABLES[0]
    'captions.csv'
"""
WITH_SPLITS = ("dataset_flickr30k.json", "flickr_annotations_30k.csv")
ANNOTATIONS = (*WITH_SPLITS, "results.csv", "results_20130124.token")
IMAGES = ("flickr30k-images", "flickr30k_images", "images", "Images")
LOOKED_AT = 1_000  # folders, to tell what kind of data they are
PLACES = ("", "flickr30k", "annotations", *IMAGES)  # copies of Flickr30k differ in how they nest


def first_file(folder: Path, names: Iterable[str], places: Iterable[str] = ("",)) -> Path | None:
    """Return the first name that exists, in the folder or in places below it."""
    paths = (folder / place / name for name in names for place in places)
    return next((path for path in paths if path.is_file()), None)


def caption_table(folder: Path) -> Path | None:
    """Return a captions file of the folder, or of a folder in it that is named like a split."""
    return first_file(folder, CAPTION_TABLES, ("", *SPLITS, *SPLIT_ALIASES))


def fitting_type(folder: Path) -> str:
    """Return which type reads a folder, to append to the message of one that does not."""
    if first_file(folder, ANNOTATIONS, PLACES):
        return "; for Flickr30k, type: flickr30k"
    if caption_table(folder):
        return "; type: image-folder reads its captions"
    several = islice(os.walk(folder), LOOKED_AT)
    if any(name.lower().endswith(SUFFIXES) for _, _, names in several for name in names):
        return "; type: class-folders reads images without captions, in folders by class or not"
    return ""
