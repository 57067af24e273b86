"""Frozen towers: heads trained on images with five captions each, as the tutorial does.

The towers are the same random CLIP's in all arms. What encodes each epoch again does so for each
of the rows; this toolkit encodes each image and each caption once. Times are those of training,
after imports, a fresh cache included.
"""

from __future__ import annotations

import csv
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.peers import step
from benchmarks.peers.arms import Bar, Work
from benchmarks.peers.inputs import CAPTIONS, captions, image_names, towers
from benchmarks.peers.sizes import sizes

if TYPE_CHECKING:
    from pathlib import Path

SIZES = sizes()
CAPTIONS_EACH = 5
FOLDER = "five-captions"


def five_captions(folder: Path) -> None:
    """Give the first images five captions each, in a folder of their own."""
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    texts = captions(folder)
    with (target / CAPTIONS).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "split"])
        for i, name in enumerate(image_names(folder)[: SIZES.frozen_images]):
            shutil.copy(name, target / f"{i:05}.jpg")
            for each in range(CAPTIONS_EACH):
                text = f"{texts[(i + each) % len(texts)]} {each}"
                table.writerow([f"{i:05}.jpg", text, "train"])


def ours(folder: Path, *, epochs: int, cache: str = "auto", again: bool = False) -> float:
    """Train heads, on features that are computed once, or else each epoch."""
    from contrastive import FeatureCache, RunSpec, build_model, train

    spec = RunSpec.model_validate(
        {
            "model": {
                "embed_dim": SIZES.embed_dim,
                "towers": towers(folder, "linear", frozen="encoder"),
                "loss": {"type": "infonce"},
            },
            "data": {"type": "image-folder", "folder": str(folder / FOLDER)},
            "training": {"batch_size": SIZES.batch, "epochs": epochs, "cache": cache},
            "evaluation": {"split": None},
        }
    )
    build_model(spec.model)  # imports what the towers are made of, which is not timed
    features = folder / "features"
    shutil.rmtree(features, ignore_errors=True)
    for _ in range(1 + again):  # the last one counts
        shutil.rmtree(folder / "run", ignore_errors=True)
        started = time.perf_counter()
        train(spec, folder / "run", cache=FeatureCache(features))
        seconds = time.perf_counter() - started
    return seconds


def sentence_transformers(folder: Path, *, epochs: int) -> float:
    """Train a dense layer on a frozen CLIP, which encodes each row in each epoch."""
    from sentence_transformers.models import Dense

    model = step.sentence_transformer(folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    width = SIZES.embed_dim
    model.append(Dense(width, width, activation_function=None).to(model.device))
    trainer = step.trainer(model, folder, FOLDER, epochs)
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


WORK = Work(
    title=f"heads on frozen towers, {SIZES.frozen_images} images, {CAPTIONS_EACH} captions each",
    unit="s",
    arms={
        "ours, 3 epochs": partial(ours, epochs=3),
        "ours, second run": partial(ours, epochs=3, again=True),
        "encoded each epoch, 3": partial(ours, epochs=3, cache="off"),
        "sentence-transformers, 3": partial(sentence_transformers, epochs=3),
        "ours, 10 epochs": partial(ours, epochs=10),
        "encoded each epoch, 10": partial(ours, epochs=10, cache="off"),
        "sentence-transformers, 10": partial(sentence_transformers, epochs=10),
    },
    bars=(
        Bar("encoded each epoch, 3", 0.3, ours="ours, 3 epochs"),
        Bar("sentence-transformers, 3", 0.3, ours="ours, 3 epochs"),
        Bar("encoded each epoch, 3", 0.05, ours="ours, second run"),
        Bar("encoded each epoch, 10", 0.12, ours="ours, 10 epochs"),
        Bar("sentence-transformers, 10", 0.12, ours="ours, 10 epochs"),
    ),
    inputs=(*step.WORK.inputs, five_captions),
)
