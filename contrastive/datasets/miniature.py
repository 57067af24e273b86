"""Generated datasets, drawn in a second: coloured shapes with five captions each.

The signal can be learned: every shape and every colour is in the training split, and each image
of the other splits is a combination of the two that training has not seen.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from contrastive.config.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
BACKGROUNDS = ("white", "black", "grey", "pink")
BY_SIX = ("train", "train", "train", "train", "val", "test")


@dataclass(frozen=True)
class Drawing:
    """One image, its captions and its split."""

    index: int

    @property
    def name(self) -> str:
        """The file's name, like those of Flickr30k."""
        return f"{1000092795 + 7919 * self.index}.jpg"

    @property
    def split(self) -> str:
        """train, val or test."""
        column, row = self.index % 6, self.index // 6 % 4
        return BY_SIX[(column + row) % 6]  # a diagonal, so that no colour or shape is left out

    @property
    def shape(self) -> str:
        """What is drawn."""
        return SHAPES[self.index // 6 % 4]

    @property
    def colour(self) -> str:
        """Of the shape."""
        return COLOURS[self.index % 6]

    @property
    def background(self) -> str:
        """The other colour."""
        return BACKGROUNDS[(self.index * 5 // 3 + self.index // 24) % 4]

    @property
    def captions(self) -> list[str]:
        """Five captions."""
        thing, ground = f"{self.colour} {self.shape}", self.background
        return [
            f"A {thing} on a {ground} background .",
            f"There is one {thing} , and behind it all is {ground} .",
            f'A picture of a "{thing}" .',
            f"Someone painted a {self.shape} in {self.colour} on a {ground} wall .",
            f"{ground.capitalize()} paper with a {self.colour} {self.shape} in the middle .",
        ]

    def draw(self, size: int = 64) -> Image.Image:
        """Return the image, ``size`` pixels wide and high."""
        image = Image.new("RGB", (size, size), self.background)
        pen = ImageDraw.Draw(image)
        shift = self.index // 24 % 5 - 2  # more than 24 images: the same things moved
        a, b, m = size // 5 + shift, size - size // 5 + shift, size // 2 + shift
        third = size // 10
        if self.shape == "circle":
            pen.ellipse((a, a, b, b), fill=self.colour)
        elif self.shape == "square":
            pen.rectangle((a, a, b, b), fill=self.colour)
        elif self.shape == "triangle":
            pen.polygon([(m, a), (b, b), (a, b)], fill=self.colour)
        else:
            pen.rectangle((m - third, a, m + third, b), fill=self.colour)
            pen.rectangle((a, m - third, b, m + third), fill=self.colour)
        return image


def write_flickr30k(folder: Path, *, images: int = 48) -> None:
    """Write a miniature Flickr30k: JPEGs, and captions and splits in Karpathy's JSON."""
    drawings = [Drawing(index) for index in range(images)]
    _write_images(drawings, folder / "flickr30k-images")
    entries = [karpathy_entry(drawing, drawing.captions) for drawing in drawings]
    document = {"images": entries, "dataset": "flickr30k-generated-miniature"}
    (folder / "dataset_flickr30k.json").write_text(json.dumps(document), encoding="utf-8")


def write_image_folder(folder: Path, *, images: int = 48, first: int = 0) -> None:
    """Write a miniature ``image-folder``: JPEGs, and a captions.csv that says the splits."""
    drawings = [Drawing(index) for index in range(first, first + images)]
    _write_images(drawings, folder)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "text", "label", "split"])
        for drawing in drawings:
            for caption in drawing.captions:
                table.writerow([drawing.name, caption, drawing.shape, drawing.split])


def write_class_folders(folder: Path, *, images: int = 144) -> None:
    """Write miniature ``class-folders``: JPEGs in a folder for each shape, in those of splits."""
    for index in range(images):
        drawing = Drawing(index)
        place = folder / BY_SIX[index // 24 % 6] / drawing.shape  # all colours and shapes in each
        place.mkdir(parents=True, exist_ok=True)
        drawing.draw().save(place / drawing.name, quality=90)


def write_table(folder: Path, *, images: int = 48) -> None:
    """Write a miniature ``table``: a Parquet file for each split, the images in it.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pa = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")

    folder.mkdir(parents=True)
    for split, drawings in _by_split(images).items():
        rows = [
            {"image": _jpeg(each), "text": each.captions, "label": each.shape} for each in drawings
        ]
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def write_shards(folder: Path, *, images: int = 48) -> None:
    """Write a miniature ``webdataset``: a tar file for each split."""
    folder.mkdir(parents=True)
    for split, drawings in _by_split(images).items():
        with tarfile.open(folder / f"{split}-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for each in drawings:
                about = {"captions": each.captions, "label": each.shape}
                for end, content in (("jpg", _jpeg(each)), ("json", json.dumps(about).encode())):
                    member = tarfile.TarInfo(f"{each.index:06}.{end}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_mix(folder: Path) -> None:
    """Write two miniatures of ``image-folder``; the second has the shapes elsewhere."""
    folder.mkdir(parents=True)
    write_image_folder(folder / "photos")
    write_image_folder(folder / "drawings", first=48)


def _by_split(images: int) -> dict[str, list[Drawing]]:
    drawings = [Drawing(index) for index in range(images)]
    return {
        split: [each for each in drawings if each.split == split]
        for split in ("train", "val", "test")
    }


def _jpeg(drawing: Drawing) -> bytes:
    held = io.BytesIO()
    drawing.draw().save(held, "JPEG", quality=90)
    return held.getvalue()


WRITERS: dict[str, Callable[[Path], None]] = {
    "flickr30k": write_flickr30k,
    "image-folder": write_image_folder,
    "class-folders": write_class_folders,
    "table": write_table,
    "webdataset": write_shards,
    "mix": write_mix,
}
"""What writes the data of a kind of ``contrastive init``."""


def karpathy_entry(drawing: Drawing, captions: list[str]) -> dict[str, object]:
    """Return what Karpathy's JSON says of an image."""
    ids = [5 * drawing.index + number for number in range(5)]
    return {
        "sentids": ids,
        "imgid": drawing.index,
        "sentences": [
            {"tokens": text.lower().split(), "raw": text, "imgid": drawing.index, "sentid": sentid}
            for sentid, text in zip(ids, captions, strict=True)
        ],
        "split": drawing.split,
        "filename": drawing.name,
    }


def _write_images(drawings: list[Drawing], folder: Path) -> None:
    folder.mkdir(parents=True)
    for drawing in drawings:
        drawing.draw().save(folder / drawing.name, quality=90)
