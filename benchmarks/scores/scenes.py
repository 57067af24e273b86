"""A generated Flickr30k of two coloured shapes on a background: a caption may leave things out.

Unlike the miniature of ``contrastive init``, it has 2,304 different images, and captions that fit
one of them, a few or many, as those of photographs do.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from contrastive.datasets.miniature import BACKGROUNDS, COLOURS, SHAPES

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64


@dataclass(frozen=True)
class Scene:
    """Two things, the left and the right one, each a colour and a shape."""

    left: tuple[str, str]
    right: tuple[str, str]
    background: str

    @property
    def captions(self) -> list[str]:
        """Five captions: three name both things, two of these the background; two name one."""
        (one, first), (other, second) = self.left, self.right
        return [
            f"A {one} {first} and a {other} {second} on a {self.background} background .",
            f"On {self.background} paper there are a {one} {first} and a {other} {second} .",
            f"A {other} {second} beside a {one} {first} .",
            f"Somebody painted a {one} {first} on a {self.background} wall .",
            f"There is a {other} {second} in this picture .",
        ]

    def draw(self, noise: np.random.Generator) -> Image.Image:
        """Return the image; places and sizes vary."""
        image = Image.new("RGB", (SIZE, SIZE), self.background)
        pen = ImageDraw.Draw(image)
        for centre, (colour, shape) in ((17, self.left), (47, self.right)):
            x, y = centre + int(noise.integers(-3, 4)), 32 + int(noise.integers(-12, 13))
            _draw_shape(pen, shape, colour, x, y, int(noise.integers(9, 14)))
        return image


@dataclass(frozen=True)
class Content:
    """What a sentence says of a scene, and what is in one."""

    things: tuple[tuple[str, str], ...]
    background: str | None

    def is_in(self, scene: Content) -> bool:
        """Whether a scene has all that a sentence says; left and right do not matter."""
        lacking = Counter(self.things) - Counter(scene.things)
        return not lacking and self.background in (None, scene.background)


def content_of(sentence: str) -> Content:
    """Return what a caption of a ``Scene`` says; its first caption says all that there is."""
    words = sentence.lower().split()
    things = [pair for pair in pairwise(words) if pair[0] in COLOURS and pair[1] in SHAPES]
    grounds = [word for word in words if word in BACKGROUNDS]
    return Content(tuple(things), grounds[0] if grounds else None)


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, colour: str, x: int, y: int, r: int) -> None:
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    else:
        third = r // 3
        pen.rectangle((x - third, y - r, x + third, y + r), fill=colour)
        pen.rectangle((x - r, y - third, x + r, y + third), fill=colour)


def write_scenes(folder: Path, *, train: int = 1200, held_out: int = 1000, seed: int = 0) -> None:
    """Write different scenes in Flickr30k's form; those held out are in ten splits, 0 to 9."""
    noise = np.random.default_rng(seed)
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    every = [Scene(a, b, ground) for a in things for b in things for ground in BACKGROUNDS]
    images = folder / "flickr30k-images"
    images.mkdir(parents=True)
    entries = []
    for number, which in enumerate(noise.permutation(len(every))[: train + held_out].tolist()):
        scene, name = every[which], f"{1000092795 + number}.png"
        scene.draw(noise).save(images / name)
        ids = [5 * number + i for i in range(5)]
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": sentid}
            for sentid, text in zip(ids, scene.captions, strict=True)
        ]
        split = "train" if number < train else f"{number % 10}"
        entries.append(
            {
                "sentids": ids,
                "imgid": number,
                "sentences": sentences,
                "split": split,
                "filename": name,
            }
        )
    document = json.dumps({"images": entries, "dataset": "flickr30k"})
    (folder / "dataset_flickr30k.json").write_text(document, encoding="utf-8")
