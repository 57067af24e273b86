"""A miniature Flickr30k: coloured shapes with five captions each, in all the forms of the real one.

The signal can be learned: every shape and every colour is in the training split, and each image
of the other splits is a pair of the two that training has not seen.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
BACKGROUNDS = ("white", "black", "grey", "pink")
FORMS = {
    "karpathy": "dataset_flickr30k.json",
    "hugging_face": "flickr_annotations_30k.csv",
    "kaggle": "results.csv",
    "original": "results_20130124.token",
}
SPLITS = ("train", "train", "train", "train", "val", "test")


@dataclass(frozen=True)
class Picture:
    """One image of the miniature: what it shows and what is said of it."""

    index: int

    @property
    def name(self) -> str:
        return f"{1000092795 + 7919 * self.index}.jpg"

    @property
    def split(self) -> str:
        column, row = self.index % 6, self.index // 6 % 4
        return SPLITS[(column + row) % 6]  # a diagonal, so that no colour or shape is left out

    @property
    def shape(self) -> str:
        return SHAPES[self.index // 6 % 4]

    @property
    def colour(self) -> str:
        return COLOURS[self.index % 6]

    @property
    def background(self) -> str:
        return BACKGROUNDS[(self.index * 5 // 3 + self.index // 24) % 4]

    @property
    def captions(self) -> list[str]:
        thing, ground = f"{self.colour} {self.shape}", self.background
        return [
            f"A {thing} on a {ground} background .",
            f"There is one {thing} , and behind it all is {ground} .",
            f'A picture of a "{thing}" .',
            f"Someone painted a {self.shape} in {self.colour} on a {ground} wall .",
            f"{ground.capitalize()} paper with a {self.colour} {self.shape} in the middle .",
        ]

    def draw(self, size: int = 64) -> Image.Image:
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


def write_flickr30k(
    folder: Path,
    *,
    images: int = 24,
    forms: tuple[str, ...] = ("karpathy",),
    lists: bool = False,
    broken: int = 0,
    malformed: int = 0,
) -> Path:
    """Write a miniature Flickr30k and return its folder.

    Args:
        folder: made if need be.
        images: how many; of six, four are in train, one in val and one in test.
        forms: which annotation files to write, of ``FORMS``.
        lists: write flickr30k_train.txt, ... too, for the forms that do not say the splits.
        broken: so many images of train, the first ones, are cut off after 100 bytes.
        malformed: so many images of train, the last ones, have an empty first caption.
    """
    pictures = [Picture(index) for index in range(images)]
    trained = [picture for picture in pictures if picture.split == "train"]
    (folder / "flickr30k-images").mkdir(parents=True)
    for picture in pictures:
        picture.draw().save(folder / "flickr30k-images" / picture.name, quality=90)
    for picture in trained[:broken]:
        path = folder / "flickr30k-images" / picture.name
        path.write_bytes(path.read_bytes()[:100])
    hollow = {picture.name for picture in (trained[-malformed:] if malformed else [])}
    captioned = [
        (picture, ["", *picture.captions[1:]] if picture.name in hollow else picture.captions)
        for picture in pictures
    ]
    for form in forms:
        _write(folder / FORMS[form], form, captioned)
    for split in ("train", "val", "test") if lists else ():
        names = [picture.name for picture in pictures if picture.split == split]
        (folder / f"flickr30k_{split}.txt").write_text("\n".join(names) + "\n")
    return folder


def write_hub_copy(
    folder: Path,
    *,
    images: int = 24,
    files: int = 2,
    change: Callable[[list[dict[str, Any]]], object] = len,
) -> Path:
    """Write the miniature as the hub has Flickr30k, Parquet by ``datasets``; return its folder.

    Args:
        folder: made if need be.
        images: how many; of six, four are in train, one in val and one in test.
        files: into how many files.
        change: changes the rows before they are written.
    """
    import datasets

    text = datasets.Value("string")
    columns = {"image": datasets.Image(), "caption": datasets.List(text)}
    columns |= {"sentids": datasets.List(text), "split": text, "img_id": text, "filename": text}
    rows = [_cells(Picture(index)) for index in range(images)]
    change(rows)
    inner = folder / "TEST" / "test"  # the one configuration and the one split that the hub knows
    inner.mkdir(parents=True)
    datasets.disable_progress_bars()
    for number in range(files):
        part = rows[len(rows) * number // files : len(rows) * (number + 1) // files]
        table = datasets.Dataset.from_list(part, features=datasets.Features(columns))
        table.to_parquet(inner / f"{number:04}.parquet")
    datasets.enable_progress_bars()
    return folder


def _cells(picture: Picture) -> dict[str, Any]:
    encoded = io.BytesIO()
    picture.draw().save(encoded, "JPEG", quality=90)  # the bytes of the file
    return {
        "image": {"bytes": encoded.getvalue(), "path": picture.name},
        "caption": picture.captions,
        "sentids": [str(5 * picture.index + number) for number in range(5)],
        "split": picture.split,
        "img_id": str(picture.index),
        "filename": picture.name,
    }


def _write(path: Path, form: str, captioned: list[tuple[Picture, list[str]]]) -> None:
    lines = [
        (picture.name, number, text)
        for picture, captions in captioned
        for number, text in enumerate(captions)
    ]
    if form == "original":
        text = "".join(f"{name}#{number}\t{text}\n" for name, number, text in lines)
        path.write_text(text, encoding="utf-8")
    elif form == "kaggle":
        rows = [f"{name}| {number}| {text}\n" for name, number, text in lines]
        path.write_text("image_name| comment_number| comment\n" + "".join(rows), encoding="utf-8")
    elif form == "hugging_face":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["raw", "sentids", "split", "filename", "img_id"])
            for picture, captions in captioned:
                ids = [5 * picture.index + number for number in range(5)]
                cells = json.dumps(captions), json.dumps(ids), picture.split, picture.name
                table.writerow([*cells, picture.index])
    else:
        document = [_entry(picture, captions) for picture, captions in captioned]
        path.write_text(json.dumps({"images": document, "dataset": "flickr30k"}), encoding="utf-8")


def _entry(picture: Picture, captions: list[str]) -> dict[str, object]:
    ids = [5 * picture.index + number for number in range(5)]
    return {
        "sentids": ids,
        "imgid": picture.index,
        "sentences": [
            {"tokens": text.lower().split(), "raw": text, "imgid": picture.index, "sentid": sentid}
            for sentid, text in zip(ids, captions, strict=True)
        ],
        "split": picture.split,
        "filename": picture.name,
    }
