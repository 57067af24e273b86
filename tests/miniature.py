"""The miniature Flickr30k in all the forms of the real one, and broken on request."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from contrastive.datasets.miniature import COLOURS, SHAPES, karpathy_entry
from contrastive.datasets.miniature import Drawing as Picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["COLOURS", "FORMS", "SHAPES", "Picture", "write_flickr30k", "write_hub_copy"]

FORMS = {
    "karpathy": "dataset_flickr30k.json",
    "hugging_face": "flickr_annotations_30k.csv",
    "kaggle": "results.csv",
    "original": "results_20130124.token",
}


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
        (folder / "flickr30k-images" / picture.name).write_bytes(_jpeg(picture.index))
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


@cache
def _jpeg(index: int) -> bytes:
    """Return the bytes of an image's file, which many tests write."""
    encoded = io.BytesIO()
    Picture(index).draw().save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _cells(picture: Picture) -> dict[str, Any]:
    return {
        "image": {"bytes": _jpeg(picture.index), "path": picture.name},
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
        document = [karpathy_entry(picture, captions) for picture, captions in captioned]
        path.write_text(json.dumps({"images": document, "dataset": "flickr30k"}), encoding="utf-8")
