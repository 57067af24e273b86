"""``contrastive init``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from contrastive.cli.options import Json
from contrastive.cli.output import show
from contrastive.errors import DataError

FOLDERS = {"flickr30k": "flickr30k", "image-folder": "images"}
DATA = {
    "flickr30k": """\
# Flickr30k as it was unpacked; captions, images and splits are found in it by their usual names.
data: {type: flickr30k, folder: FOLDER, captions_per_image: 2}
""",
    "image-folder": """\
# Your images, with captions.csv beside them: columns image and text, maybe group, label and split.
data: {type: image-folder, folder: FOLDER}
""",
}
PRETRAINED = """\
# A pretrained image encoder and a pretrained text encoder, frozen; a projection head is trained on
# each, by the symmetric InfoNCE loss with a learned temperature.
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
        Literal["flickr30k", "image-folder"], typer.Argument(help="What data the spec is for.")
    ],
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Also write a generated dataset that it trains on.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file of the spec.")] = Path(
        "clip.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Write a commented spec to begin with."""
    folder = output.parent / FOLDERS[kind]
    written = [output, folder] if with_data else [output]
    for path in written:
        if path.exists():
            msg = f"{path}: is there already; move it, or give --output in another folder"
            raise DataError(msg)
    model, training = PRETRAINED, TRAINING
    if with_data:
        from contrastive.datasets.miniature import write_flickr30k, write_image_folder

        (write_flickr30k if kind == "flickr30k" else write_image_folder)(folder)
        model, training = SCRATCH, BRIEF
    data = DATA[kind].replace("FOLDER", folder.as_posix())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join([model, data, EVALUATED + training]), encoding="utf-8")
    lines = [f"written: {path}" for path in written]
    command = shlex.join(["contrastive", "train", str(output)])
    show({"spec": str(output)}, as_json, "\n".join([*lines, f"next: {command}"]))
