"""Flickr30k: where its copies keep their files, and who is in which split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from contrastive.console import say
from contrastive.data.images import SUFFIXES
from contrastive.data.storage.folders import readable_folder
from contrastive.datasets.captions.rows import Row
from contrastive.datasets.captions.splits import ReadCaptions, splits_of
from contrastive.datasets.captions.table import CaptionTable
from contrastive.datasets.file_index import FileIndex
from contrastive.datasets.flickr30k.forms import reader_of, says_splits
from contrastive.datasets.known_files import (
    ANNOTATIONS,
    IMAGES,
    PLACES,
    WITH_SPLITS,
    first_file,
    fitting_type,
)
from contrastive.datasets.quoting import quoted
from contrastive.datasets.splits import SPLITS, split_of
from contrastive.datasets.tables.text_decoding import read_lines
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contrastive.config.base import PathField
    from contrastive.datasets import Flickr30k, SplitReader

LISTS = {
    "train": ("flickr30k_train.txt", "train.txt", "Flickr_8k.trainImages.txt"),
    "val": ("flickr30k_val.txt", "val.txt", "Flickr_8k.devImages.txt"),
    "test": ("flickr30k_test.txt", "test.txt", "Flickr_8k.testImages.txt"),
}
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"


def reader(config: Flickr30k) -> SplitReader:
    """Return what reads splits; the annotations are read when the first is asked for.

    Raises:
        DataError: see ``Flickr30k.build``.
    """
    return splits_of(config, lambda: _read(config))


def _read(config: Flickr30k) -> ReadCaptions:
    assert config.folder is not None  # which the config insists on
    folder = Path(config.folder).expanduser()
    with readable_folder(folder):
        annotations = _find_annotations(folder, config.annotations)
        form = reader_of(annotations)
        rows = form(annotations)
        if config.holdout is not None:
            say(f"{annotations}: a hash decides on the splits; Karpathy's, to compare: {KARPATHY}")
            rows = _hashed(rows, config.holdout)
        elif config.splits or not says_splits(form):
            rows = _assign(rows, _read_splits(folder, config.splits, annotations), annotations)
        images = FileIndex(_find_images(folder, config.images))
        captions = CaptionTable.of(rows, images).built()
        return ReadCaptions(captions, annotations, hashed=config.holdout is not None)


def _find_annotations(folder: Path, given: PathField | None) -> Path:
    if found := folder / given if given else first_file(folder, ANNOTATIONS, PLACES):
        return found
    looked = ", ".join(ANNOTATIONS)
    msg = f"{folder}: no annotations here; looked for {looked}{fitting_type(folder)}"
    raise DataError(msg)


def _find_images(folder: Path, given: PathField | None) -> Path:
    """Return the folder of images."""
    if given:
        candidates = [folder / given]
    else:
        nested = [folder / outer / inner for outer in PLACES if outer for inner in IMAGES]
        candidates = [*(folder / name for name in IMAGES), *nested, folder]
    for candidate in candidates:
        if candidate.is_dir() and any(p.suffix.lower() in SUFFIXES for p in candidate.iterdir()):
            return candidate
    looked = given or f"{', '.join(IMAGES)} and the folder itself"
    msg = f"{folder}: no images; looked in {looked}; set images to their folder"
    raise DataError(msg)


class _Member(NamedTuple):
    split: str
    source: str


class _Splits(NamedTuple):
    members: dict[str, _Member]
    flaws: list[Row]


def _read_splits(folder: Path, given: PathField | None, annotations: Path) -> _Splits:
    """Read who is in which split."""
    place = folder / given if given else folder
    if not place.is_dir():
        return _read_members(place)
    places = ("",) if given else PLACES  # what the user points at is not to be guessed at
    if file := first_file(place, WITH_SPLITS, places):
        return _read_members(file)
    if members := _read_lists(place, places):
        return _Splits(members, [])
    of_flickr8k = "8k" in annotations.name.lower()
    lists = ", ".join(LISTS[split][-1 if of_flickr8k else 0] for split in SPLITS)
    msg = (
        f"{annotations}: does not say the splits, nor does {place}; add {WITH_SPLITS[0]} or "
        f"{WITH_SPLITS[2]} ({KARPATHY}), or {lists}; or "
        "set splits to such a file, or holdout to the share of images for val, and for test"
    )
    raise DataError(msg)


def _read_members(file: Path) -> _Splits:
    """Read the splits from annotations that say them."""
    reader = reader_of(file)
    if not says_splits(reader):
        msg = f"{file}: does not say the splits; {' and '.join(WITH_SPLITS)} do"
        raise DataError(msg)
    members: dict[str, _Member] = {}
    flaws: list[Row] = []
    for row in reader(file):
        if row.split is None:
            flaws.append(row)
        else:
            _enrol(members, row.image, _Member(row.split, row.source), file)
    return _Splits(members, flaws)


def _read_lists(place: Path, places: tuple[str, ...]) -> dict[str, _Member]:
    """Read a list of names for each split; the suffix .jpg may be left out."""
    members: dict[str, _Member] = {}
    for split in SPLITS:
        file = first_file(place, LISTS[split], places)
        for number, line in enumerate(read_lines(file) if file else [], 1):
            if not (name := line.strip()):
                continue
            image = name if name.lower().endswith(SUFFIXES) else f"{name}.jpg"
            _enrol(members, image, _Member(split, f"{file and file.name}:{number}"), place)
    return members


def _enrol(members: dict[str, _Member], image: str, member: _Member, place: Path) -> None:
    """Note the split of an image; an image in two would leak."""
    known = members.setdefault(image, member)
    if known.split != member.split:
        msg = (
            f"{place}: image {quoted(image)} is both in {quoted(known.split)} ({known.source}) "
            f"and in {quoted(member.split)} ({member.source})"
        )
        raise DataError(msg)


def _hashed(rows: Iterable[Row], holdout: float) -> Iterator[Row]:
    for row in rows:
        yield row._replace(split=split_of(row.image, holdout)) if row.image else row


def _assign(rows: Iterable[Row], splits: _Splits, annotations: Path) -> Iterator[Row]:
    """Add the split to each row, and a fault for each image of a split that has no row."""
    missing = dict(splits.members)
    for row in rows:
        missing.pop(row.image, None)
        member = splits.members.get(row.image)
        yield row._replace(split=member.split if member else "") if row.image else row
    yield from splits.flaws
    for image, (split, source) in missing.items():
        problem = f"image {quoted(image)} has no captions in {annotations.name}"
        yield Row(source, image, split=split, problem=problem)
