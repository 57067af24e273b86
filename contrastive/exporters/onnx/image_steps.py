"""What an image encoder's preprocessing does, in words and numbers that need no library.

The steps are read from the transform or the image processor, carried out by the ``embed.py`` that
the folder will hold, and compared with the encoder's own on images; what differs is not written.
"""

from __future__ import annotations

from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from contrastive.config.extras import require
from contrastive.encoders.hf_dual import ProcessImages
from contrastive.encoders.hf_image import Process
from contrastive.encoders.image_transform import ImageTransform
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from contrastive.encoders.module import EncoderModule

CLOSE = 1e-5  # of a pixel of order one: rounding is below, a neighbouring byte is 300 times that
SIZES = ((97, 64), (40, 113), (300, 211))
ARITHMETICS = ("pillow", "int16")
ROUNDINGS = ("half to even", "down")
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Of PIL, by the numbers that configs give."""
KNOWN = ("bilinear", "bicubic", "lanczos")

Steps = dict[str, Any]


def image_steps(encoder: EncoderModule, modality: str) -> Steps:
    """Return what the preprocessing of an image encoder does.

    Raises:
        SpecError: it does something that these words do not say.
    """
    read = _read(encoder.preprocess)
    images = [_noise(*size) for size in (*SIZES, *_halves(read or {}))]
    expected = encoder.preprocess(images)
    tensors = {name: x for name, x in expected.items() if x.ndim == 4}
    if len(tensors) == len(expected) == 1 and read is not None:
        ((name, pixels),) = tensors.items()
        for steps in _candidates(read | {"kind": "image", "input": name}):
            if _is_same(steps, images, pixels):
                return steps
    preprocess: Any = encoder.preprocess
    processor = getattr(preprocess, "processor", None) or getattr(
        getattr(preprocess, "transform", None), "processor", preprocess
    )
    msg = (
        f"towers.{modality}: {type(processor).__name__} does more to an image than onnx.json can "
        "say: resize, crop the centre, rescale and normalise"
    )
    raise SpecError(msg)


def runtime() -> Any:
    """Return the module that the folder will hold as ``embed.py``."""
    return import_module("contrastive.exporters.templates.embed")


def _noise(width: int, height: int) -> Image.Image:
    """Return an image with smooth parts and hard edges."""
    noise = np.random.default_rng(width)
    small = noise.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 2, : width // 2] = noise.integers(0, 256, 3, dtype=np.uint8)
    return Image.fromarray(pixels)


def _halves(read: Steps) -> list[tuple[int, int]]:
    """Return sizes whose centre begins at one and a half pixels, or at that and an even number.

    There, and not at half a pixel, the ways of rounding differ.
    """
    crop: dict[str, int] = read.get("crop") or {}
    resize: dict[str, Any] = read.get("resize") or {}
    if not crop or "height" in resize:
        return []
    if short := int(resize.get("shortest_edge", 0)):
        wide, high = (short + (3 - short + crop[name]) % 4 for name in ("width", "height"))
        return [(wide, short), (short, high)]
    return [(crop["width"] + 3, crop["height"] + 3)]


def _is_same(steps: Steps, images: list[Image.Image], pixels_BCHW: Tensor) -> bool:
    try:
        found = runtime().Images(steps, None)(images)[steps["input"]]
    except ValueError:  # images of several sizes make no batch
        return False
    expected = pixels_BCHW.numpy()
    return found.shape == expected.shape and bool(np.abs(found - expected).max() < CLOSE)


def _candidates(read: Steps) -> Iterator[Steps]:
    """Yield the steps by each way to compute what no config says."""
    for arithmetic, rounding in product(ARITHMETICS, ROUNDINGS):
        steps = dict(read)
        if steps["resize"]:
            steps["resize"] = steps["resize"] | {"arithmetic": arithmetic}
        if steps["crop"]:
            steps["crop"] = steps["crop"] | {"rounding": rounding}
        yield steps


def _read(preprocess: Any) -> Steps | None:
    """Return what a preprocess says of itself; None where there are no words for it."""
    if isinstance(preprocess, ProcessImages):
        return _of_processor(preprocess.processor, preprocess.mode)
    if not isinstance(preprocess, ImageTransform):
        return None
    transform: Any = preprocess.transform
    if isinstance(transform, Process):
        return _of_processor(transform.processor, transform.mode)
    return _of_composed(transform)


def _of_composed(transform: Any) -> Steps | None:
    """Return what a transform of torchvision does, in the order of timm: None if in another."""
    v = require("torchvision.transforms", extra="timm")
    steps: Steps = {"mode": "RGB", "resize": None, "crop": None, "rescale": 1 / 255}
    for step in _flat(transform):
        kind = type(step).__name__
        if isinstance(step, v.Grayscale):
            steps["mode"] = "L"
        elif isinstance(step, v.Resize) and steps["crop"] is None:
            steps["resize"] = _resize(step.size, step.interpolation.value)
        elif isinstance(step, v.CenterCrop):
            steps["crop"] = dict(zip(("height", "width"), map(int, step.size), strict=True))
        elif isinstance(step, v.Normalize):
            numbers: Any = step
            steps["mean"], steps["std"] = (
                [float(x) for x in np.asarray(values, float).ravel()]
                for values in (numbers.mean, numbers.std)
            )
        elif kind not in ("ToTensor", "MaybeToTensor"):
            return None
    if "mean" not in steps or (steps["resize"] or {}).get("filter", KNOWN[0]) not in KNOWN:
        return None
    return steps


def _flat(transform: Any) -> list[Any]:
    steps = getattr(transform, "transforms", None)
    return [transform] if steps is None else [one for step in steps for one in _flat(step)]


def _resize(size: Any, kind: str) -> Steps:
    if isinstance(size, int):
        return {"shortest_edge": size, "filter": kind}
    if len(size) == 1:
        return {"shortest_edge": int(size[0]), "filter": kind}
    return {"height": int(size[0]), "width": int(size[1]), "filter": kind}


def _of_processor(processor: Any, mode: str) -> Steps | None:
    """Return what an image processor of transformers does, by the names that most of them share."""

    def does(step: str) -> bool:
        return bool(getattr(processor, f"do_{step}", False))

    channels = 1 if mode == "L" else 3
    steps: Steps = {"mode": mode, "resize": None, "crop": None, "rescale": 1.0}
    size: Mapping[str, int] = dict(getattr(processor, "size", None) or {})
    size = {name: n for name, n in size.items() if n}
    crop: Mapping[str, int] = dict(getattr(processor, "crop_size", None) or {})
    if does("resize"):
        kind = FILTERS.get(int(getattr(processor, "resample", 2) or 0), "")
        share = getattr(processor, "crop_pct", None)
        if kind not in KNOWN:
            return None
        if share and "shortest_edge" in size and size["shortest_edge"] < 384:  # as ConvNeXt does
            side = size["shortest_edge"]
            steps["resize"] = {"shortest_edge": int(side / share), "filter": kind}
            steps["crop"] = {"height": side, "width": side}
        elif share and "shortest_edge" in size:
            side = size["shortest_edge"]
            steps["resize"] = {"height": side, "width": side, "filter": kind}
        elif size.keys() == {"shortest_edge"} or size.keys() == {"height", "width"}:
            steps["resize"] = {**size, "filter": kind}
        else:
            return None
    if does("center_crop"):
        if not crop.keys() >= {"height", "width"}:
            return None
        steps["crop"] = {"height": crop["height"], "width": crop["width"]}
    if does("rescale"):
        steps["rescale"] = float(processor.rescale_factor)
    for name, plain in (("mean", 0.0), ("std", 1.0)):
        values: Any = getattr(processor, f"image_{name}", None) if does("normalize") else None
        found = [plain] * channels if values is None else np.asarray(values, float).ravel().tolist()
        steps[name] = [float(x) for x in found]
    return steps
