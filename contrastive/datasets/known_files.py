"""What a folder is known by: the names of captions and annotations, and the type that reads it."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.data.images import SUFFIXES
from contrastive.data.storage.folders import folders_below
from contrastive.datasets.splits import split_folders
from contrastive.datasets.tables.forms import OF_ARROW, OTHER_FORMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OF_TEXT = (".csv", ".tsv", ".jsonl", ".json")
TABLE_SUFFIXES = (*OF_TEXT, *OF_ARROW, *(f"{suffix}.gz" for suffix in OF_TEXT))
CAPTION_TABLES = (
    *(f"captions{suffix}" for suffix in (*OF_TEXT[:3], ".txt", *TABLE_SUFFIXES[3:], ".txt.gz")),
    *(f"metadata{suffix}" for suffix in TABLE_SUFFIXES),
)
"""Names of a table of captions beside images, in the order in which they are looked for.

Example:
    >>> CAPTION_TABLES[0]
    'captions.csv'
"""
MAYBE_TABLES = (
    *(*TABLE_SUFFIXES, ".ndjson", ".ndjson.gz", *OTHER_FORMS),
    *(f"{suffix}.txt" for suffix in OF_TEXT),  # as Windows names what it shows without .txt
)
"""Suffixes of tables that are told of, if they have another name or are not read."""
LOOKED_FOR = (
    "captions or metadata with .csv, .tsv, .jsonl, .json, .parquet or .arrow, captions.txt, here "
    "or in train, val, test, and a .txt beside each image"
)
WITH_SPLITS = ("dataset_flickr30k.json", "flickr_annotations_30k.csv", "dataset_flickr8k.json")
ANNOTATIONS = (*WITH_SPLITS, "results.csv", "results_20130124.token", "Flickr8k.token.txt")
IMAGES = (
    *("flickr30k-images", "flickr30k_images", "images", "Images"),
    *("Flicker8k_Dataset", "Flickr8k_Dataset"),  # its archive has the first spelling
)
BESIDE = ("*.txt", "*.caption")
"""Captions in a text file beside each image, in place of a table's name."""
WORD = re.compile(r"[A-Za-z]{2}|[^\W\d_\x00-\x7f]")  # not as in 1e-05, of boxes
SEEN = 20  # texts, to tell captions from numbers
TAR_SHARDS = "; type: webdataset reads .tar shards, which are given as shards"
LOOKED_AT = 1_000  # folders, to tell what kind of data they are
PLACES = ("", "flickr30k", "annotations", "Flickr8k_text", *IMAGES)  # copies differ in nesting


def first_file(folder: Path, names: Iterable[str], places: Iterable[str] = ("",)) -> Path | None:
    """Return the first name that exists, in the folder or in places below it."""
    paths = (folder / place / name for name in names for place in places)
    return next((path for path in paths if path.is_file()), None)


def caption_table(folder: Path) -> Path | None:
    """Return a captions file of the folder, or of a folder in it that is named like a split."""
    return first_file(folder, CAPTION_TABLES, ("", *split_folders(folder)))


def other_table(folder: Path) -> str:
    """Return a table of another name in a folder, as ``captions`` may say it; or nothing.

    Of a table for the split train, it is the pattern for all splits.
    """
    names = [
        path.relative_to(folder).as_posix()
        for place in (folder, folder / "annotations")
        for path in place.glob("*")
        if path.name.lower().endswith(MAYBE_TABLES) and not path.name.startswith(".")
        if not any(path.with_suffix(suffix).exists() for suffix in SUFFIXES)
    ]
    likely = sorted(names, key=lambda name: ("captions" not in name, "train" not in name, name))
    return "".join(likely[:1]).replace("train", "{split}")


def images_by_split(folder: Path, table: str) -> str:
    """Return the folders of images that are named as a table for each split is; or nothing.

    Example:
        >>> (folder / "train2017").mkdir()
        >>> images_by_split(folder, "annotations/captions_{split}2017.json")
        '{split}2017'
    """
    if not (named := re.search(r"{split}\w*", table)):
        return ""
    return next(
        (
            f"{place}{named[0]}"
            for place in ("", "images/")
            for split in ("train", "val", "test")
            if (folder / f"{place}{named[0]}".format(split=split)).is_dir()
        ),
        "",
    )


def captions_beside(folder: Path) -> str:
    """Return the suffix of the texts that half of the images have beside them, or nothing.

    The first folders tell. Texts without words are no captions, such as the boxes of YOLO.
    """
    for suffix in (pattern[1:] for pattern in BESIDE):
        texts = [
            parent / f"{Path(name).stem}{suffix}" if f"{Path(name).stem}{suffix}" in names else None
            for parent, names in _names_below(folder)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
        found = [*filter(None, texts)]
        if 2 * len(found) > len(texts) and any(map(_has_words, found[:SEEN])):
            return suffix
    return ""


def has_arrow(folder: Path) -> bool:
    """Whether there are Parquet or Arrow files in the first folders."""
    return _is_there(folder, OF_ARROW)


def _has_words(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(WORD.search(file.read(1000).decode("utf-8", "replace")))


def _names_below(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield each folder and the names of its files."""
    for parent, _, names in islice(folders_below(folder, tell=False), LOOKED_AT):
        yield parent, {*names}


def _is_there(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(n.lower().endswith(suffixes) for _, names in _names_below(folder) for n in names)


def has_shards(folder: Path) -> bool:
    """Whether the first folders hold tar files."""
    return _is_there(folder, (".tar",))


def fitting_type(folder: Path) -> str:
    """Return which type reads a folder, to append to the message of one that does not."""
    if file := first_file(folder, ANNOTATIONS, PLACES):
        return f"; type: flickr30k reads {file.name}"
    if caption_table(folder) or captions_beside(folder):
        return "; type: image-folder reads its captions"
    if not _is_there(folder, SUFFIXES):
        return TAR_SHARDS if has_shards(folder) else ""
    if table := other_table(folder):
        fields = f'captions: "{table}"'
        if images := images_by_split(folder, table):
            fields += f', images: "{images}"'
        return f"; if {table} has the captions, take type: image-folder, {fields}"
    if texts := _texts_elsewhere(folder):
        return texts
    return "; type: class-folders reads images without captions, in folders by class or not"


def _texts_elsewhere(folder: Path) -> str:
    """Return what to do with texts that have the images' names, but are not beside them."""
    found = [(parent / name) for parent, names in _names_below(folder) for name in sorted(names)]
    images = {path.stem for path in found if path.suffix.lower() in SUFFIXES}
    for suffix in (".txt", ".caption", ".json"):
        texts = [path for path in found if path.suffix == suffix and path.stem in images]
        if 2 * len(texts) <= len(images):
            continue
        if suffix == ".json":
            return "; a .json for each image is not read; write the captions to .txt beside them"
        if any(map(_has_words, texts[:SEEN])):
            return f"; {texts[0]} and its like have to lie beside their images: move them there"
    return ""
