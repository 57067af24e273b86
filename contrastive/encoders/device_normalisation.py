"""Images as bytes until they are on the device: rescaling and normalising come last, there.

A pixel of one byte becomes one of four where a ``preprocess`` ends; moved to the device, a quarter
crosses processes and buses. What is left out here is done there, in the same order and in fp32.

Shapes: B images, C channels, H by W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrastive.config.extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.data.samples import Preprocess

BYTES = {"do_rescale": False, "do_normalize": False}
"""What an image processor of transformers is asked for, to give bytes."""
DARKEST = 0.02
"""The mean of pixels, as a share of white, below which images would be black."""
CLOSE = 1e-5  # of a number of order one: rounding is below, another order of steps far above


class PixelNormalisation:
    """``(x / scale - mean) / std`` of each channel of bytes ``[B, C, H, W]``."""

    def __init__(
        self, scale: float, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
    ) -> None:
        """Take one number, or one for each channel."""
        numbers = [torch.as_tensor(x, dtype=torch.float32) for x in (scale, mean, std)]
        self._numbers = [x.view(-1, 1, 1) if x.ndim else x for x in numbers]
        self._there: dict[torch.device, list[Tensor]] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arguments of an encoder, bytes of pixels as fp32 where they are."""
        return {k: self._pixels(x) if _is_bytes(x) else x for k, x in inputs.items()}

    def _pixels(self, bytes_BCHW: Tensor) -> Tensor:
        where = bytes_BCHW.device
        if where not in self._there:  # copied once: a copy of each step would be waited for
            self._there[where] = [x.to(where) for x in self._numbers]
        scale, mean, std = self._there[where]
        # tensors, since a GPU multiplies by the inverse of a number, which rounds otherwise
        return bytes_BCHW.to(torch.float32).div_(scale).sub_(mean).div_(std)


def _is_bytes(x: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.ndim == 4


def bytes_first(preprocess: Any) -> tuple[Preprocess, PixelNormalisation] | None:
    """Return a preprocess that gives bytes, and what turns these into what it gave.

    None where its last steps are others. Both are tried on an image: what they give has to be the
    same.
    """
    split = getattr(preprocess, "bytes_first", None)
    if split is None or (found := split()) is None:
        return None
    raw, normalise = found
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    whole, parts = _tried(preprocess, image), _tried(raw, image)
    if whole.keys() != parts.keys() or not any(map(_is_bytes, parts.values())):
        return None
    joined = normalise(parts)
    same = all(
        x.shape == joined[name].shape
        and x.dtype == joined[name].dtype
        and torch.allclose(x, joined[name], rtol=CLOSE, atol=CLOSE)
        for name, x in whole.items()
    )
    return found if same else None


def _tried(preprocess: Preprocess, image: Image.Image) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):  # an augmentation does the same both times
        torch.manual_seed(0)
        return preprocess([image])


def composed_bytes_first(transform: Any) -> tuple[Any, PixelNormalisation] | None:
    """Return a transform of torchvision without ``ToTensor`` and ``Normalize`` at its end."""
    v = require("torchvision.transforms", extra="timm")
    *before, rescale, normalise = [None, None, *_flat(transform)]
    if not (isinstance(rescale, v.ToTensor) and isinstance(normalise, v.Normalize)):
        return None
    last: Any = normalise
    raw = v.Compose([*before[2:], v.PILToTensor()])
    return raw, PixelNormalisation(255.0, last.mean, last.std)


def _flat(transform: Any) -> list[Any]:
    """Return the steps of a transform, those of sequences within it too."""
    v = require("torchvision.transforms", extra="timm")
    if not isinstance(transform, v.Compose):  # others choose among their steps
        return [transform]
    steps: list[Any] = transform.transforms
    return [each for step in steps for each in _flat(step)]


def odd_pixels(processor: Any) -> str:
    """Say where an image processor normalises by a mean that its pixels cannot have."""
    mean: Any = getattr(processor, "image_mean", None)
    if not getattr(processor, "do_normalize", False) or mean is None:
        return ""
    rescales = bool(getattr(processor, "do_rescale", False))
    white = 255 * processor.rescale_factor if rescales else 255.0
    highest = torch.as_tensor(mean, dtype=torch.float32).max().item()
    if highest <= 0 or DARKEST < highest / white < 1:
        return ""
    remedy = "set do_rescale: true" if not rescales else "set do_rescale: false"
    if rescales and highest < white:
        remedy = "set rescale_factor to that of its image_mean"
    return (
        f"its image processor subtracts an image_mean of {highest:.3g} from pixels of 0 to "
        f"{white:.3g}; {remedy} in preprocessor_config.json, if the model was not trained so"
    )


def processor_bytes_first(processor: Any) -> PixelNormalisation | None:
    """Return what an image processor of transformers does last, if it rescales and normalises."""
    if not (getattr(processor, "do_rescale", False) and getattr(processor, "do_normalize", False)):
        return None
    factor = 1.0 / processor.rescale_factor
    both: list[Any] = [processor.image_mean, processor.image_std]
    mean, std = (torch.as_tensor(x, dtype=torch.float32) * factor for x in both)
    return PixelNormalisation(1.0, mean, std)
