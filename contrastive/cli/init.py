"""``contrastive init``."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from contrastive.cli.options import Json
from contrastive.cli.output import show
from contrastive.errors import DataError

STDOUT = Path("-")
PLAIN = re.compile(r"[\w./-]+")  # what YAML reads as it stands
PLACE = re.compile(r"FOLDER(/\w+)?")
FOLDERS = {
    "flickr30k": "flickr30k",
    "image-folder": "images",
    "class-folders": "classes",
    "table": "tables",
    "webdataset": "shards",
    "mix": "datasets",
}
FIRST = {
    "flickr30k": "unpack Flickr30k's images and captions in",
    "image-folder": "put your images, and captions.csv with columns image and text, in",
    "class-folders": "put your images, in a folder for each class, in",
    "table": "put your Parquet files, with columns image and text, in",
    "webdataset": "put your .tar shards in",
    "mix": "put images with captions.csv, in photos and drawings, in",
}
DATA = {
    "flickr30k": """\
# Flickr30k as it was unpacked; captions, images and splits are found in it by their usual names.
data: {type: flickr30k, folder: FOLDER, captions_per_image: 2}
""",
    "image-folder": """\
# Your images, with captions.csv beside them: columns image and text, maybe group, label and split.
data: {type: image-folder, folder: FOLDER}
""",
    "class-folders": """\
# Images in a folder for each class: classes/cat, classes/dog. Captions for training are made of the
# classes' names, so that images of a class are positives of each other; leave the loss supcon.
data: {type: class-folders, folder: FOLDER, captions: ["a photo of a {}", "a picture of a {}"]}
""",
    "table": """\
# Parquet with images inside or as paths: columns image and text, maybe group, label and split.
data: {type: table, files: FOLDER}
""",
    "webdataset": """\
# Tar shards in the format of WebDataset, here or in a storage, as in s3://bucket/{split}/*.tar.
# Where they do not all fit on this machine's disk, `window: 16` reads so many of them at a time.
data: {type: webdataset, shards: FOLDER}
""",
    "mix": """\
# Several datasets, of any types, each with its share of every batch: here three parts of four.
data:
  type: mix
  datasets:
    photos: {type: image-folder, folder: FOLDER/photos}
    drawings: {type: image-folder, folder: FOLDER/drawings}
  weights: {photos: 3, drawings: 1}
""",
}
INFONCE = "{type: infonce, temperature: 0.07}"
LOSSES = {"class-folders": "{type: supcon, temperature: 0.07}"}
PRETRAINED = """\
# A pretrained image encoder and a pretrained text encoder, frozen; a projection head is trained on
# each, by a contrastive loss in both directions with a learned temperature.
model:
  embed_dim: 256
  towers:
    image:
      encoder: {type: timm, name: resnet50.a1_in1k}
      head: {type: mlp}
      frozen: encoder
    text:
      encoder: {type: hf-text, name: distilbert/distilbert-base-multilingual-cased, max_length: 64}
      head: {type: mlp}
      frozen: encoder
  loss: {type: infonce, temperature: 0.07}
"""
SCRATCH = """\
# Two small networks with random weights, for the generated data: they need no downloads. With data
# of your own, take pretrained encoders; `contrastive init KIND` without --with-data writes a spec.
model:
  embed_dim: 64
  towers:
    image:
      encoder: {type: resnet, width: 16, image_size: 64}
      head: {type: linear}
    text:
      encoder: {type: cbow, width: 64}
      head: {type: linear}
  loss: {type: infonce, temperature: 0.07}
"""
EVALUATED = """\
# Metrics on the split val after each epoch, and on test by `contrastive evaluate`.
"""
TRAINING = "training: {epochs: 3, batch_size: 128, lr: 1e-3}\n"
BRIEF = "training: {epochs: 12, batch_size: 32, lr: 3e-3, workers: 0}\n"


def init(
    kind: Annotated[
        Literal["flickr30k", "image-folder", "class-folders", "table", "webdataset", "mix"],
        typer.Argument(help="What data the spec is for."),
    ],
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Also write a generated dataset that it trains on.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file of the spec; - prints it.")
    ] = Path("clip.yaml"),
    as_json: Json = False,
) -> None:
    """Write a commented spec to begin with."""
    folder = output.parent / FOLDERS[kind]
    text = _spec(kind, folder, with_data=with_data)
    if output == STDOUT:
        if with_data or as_json:
            msg = (
                "--output - prints the spec alone; give a file, or leave out --with-data and --json"
            )
            raise DataError(msg)
        typer.echo(text, nl=False)
        return
    try:
        _write(output, text, kind, folder if with_data else None)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        msg = f"{output}: cannot be written ({why}); give --output in another folder"
        raise DataError(msg) from None
    lines = [f"written: {output}"]
    if with_data:
        lines.append(f"written: {folder}")
    elif not folder.exists():
        lines.append(f"first: {FIRST[kind]} {folder}")
    command = shlex.join(["contrastive", "train", str(output)])
    show({"spec": str(output)}, as_json, "\n".join([*lines, f"next: {command}"]))


def _spec(kind: str, folder: Path, *, with_data: bool) -> str:
    model, training = (SCRATCH, BRIEF) if with_data else (PRETRAINED, TRAINING)
    model = model.replace(INFONCE, LOSSES.get(kind, INFONCE))

    def quoted(found: re.Match[str]) -> str:
        place = folder.as_posix() + (found[1] or "")
        return place if PLAIN.fullmatch(place) else json.dumps(place, ensure_ascii=False)

    return "\n".join([model, PLACE.sub(quoted, DATA[kind]), EVALUATED + training])


def _write(output: Path, text: str, kind: str, folder: Path | None) -> None:
    """Write the spec, and generated data to ``folder``; what is there already stays."""
    if output.is_dir():
        msg = f"{output}: is a folder; give a file, such as {output / 'clip.yaml'}"
        raise DataError(msg)
    for path in filter(None, (output, folder)):
        if path.exists():
            msg = f"{path}: is there already; move it, or give another --output"
            raise DataError(msg)
    output.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        from contrastive.datasets.miniature import WRITERS

        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as made:  # all or nothing
            whole = Path(made) / folder.name
            WRITERS[kind](whole)
            whole.rename(folder)
    output.write_text(text, encoding="utf-8")
