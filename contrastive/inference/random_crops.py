"""What an image encoder sees of an image, differentiably: random views, scaled and normalised.

Shapes: V views, 3 channels, S by S pixels of the image, H by W pixels of the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from contrastive.errors import SpecError

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule

PROBES = ((0, 0, 0), (255, 255, 255), (51, 102, 204))  # the third tells whether the rest is linear
SMALLEST = 0.6  # of a view's side: what is left of the image still shows what the words say
TILT = math.radians(10)


@dataclass(frozen=True)
class Pixels:
    """The input of an image encoder: its name, its size, and how colours become numbers."""

    name: str
    """The keyword of ``forward``."""
    size: tuple[int, int]
    """H and W."""
    mean_3: Tensor
    """Mean of each channel, which the encoder subtracts from values in [0, 1]..."""
    std_3: Tensor
    """...and deviation, by which it divides."""

    def normalise(self, images: Tensor) -> Tensor:
        """Return what the encoder makes of images ``[V, 3, H, W]`` in [0, 1]."""
        mean, std = (part.to(images)[:, None, None] for part in (self.mean_3, self.std_3))
        return (images - mean) / std


def pixels_of(encoder: EncoderModule) -> Pixels:
    """Find out what an image encoder's preprocessing does to colours, from what it makes of three.

    So it holds for every encoder that scales, crops and normalises, whoever wrote it.

    Raises:
        SpecError: the encoder takes something else, such as patches with their places.
    """
    seen = encoder.preprocess([Image.new("RGB", (256, 256), colour) for colour in PROBES])
    name, values = next(iter(seen.items()))
    if len(seen) > 1 or values.ndim != 4 or values.shape[1] != 3:
        raise _unfit(encoder, f"it makes of images: {_shapes(seen)}")
    colours = values.double().mean((2, 3))
    black, white = colours[:2]
    std = 1 / (white - black)
    expected = (torch.tensor(PROBES, dtype=torch.float64) / 255 - (-black * std)) / std
    flat = (values - expected[..., None, None]).abs().max()
    if not flat < 1e-2:  # rounding leaves far less; NaN is not less either
        raise _unfit(encoder, "it does more to colours than to normalise each channel")
    height, width = values.shape[2:]
    return Pixels(name, (height, width), (-black * std).float(), std.float())


def random_views(
    image: Tensor, count: int, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return crops of an image: turned a little, some of them flipped, no two alike.

    Args:
        image: ``[3, S, S]`` in [0, 1].
        count: V.
        size: H and W.
        generator: decides them, on the CPU.

    Returns:
        ``[V, 3, H, W]``.
    """
    if image.shape[-1] > max(size):  # else a view would skip pixels
        image = interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    scale = SMALLEST + (1 - SMALLEST) * torch.rand(count, generator=generator)
    flip = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    angle = TILT * (2 * torch.rand(count, generator=generator) - 1)
    shift = (1 - scale) * (2 * torch.rand(2, count, generator=generator) - 1)
    rows = [
        [scale * flip * angle.cos(), -scale * angle.sin(), shift[0]],
        [scale * flip * angle.sin(), scale * angle.cos(), shift[1]],
    ]
    places = torch.stack([torch.stack(row, -1) for row in rows], 1).to(image)
    grid = affine_grid(places, [count, 3, *size], align_corners=False)
    return grid_sample(
        image.expand(count, -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )


def _shapes(seen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {list(values.shape)}" for name, values in seen.items())


def _unfit(encoder: EncoderModule, why: str) -> SpecError:
    return SpecError(
        f"no gradient goes through the preprocessing of {type(encoder).__name__}: {why}; "
        "take an image encoder that scales, crops and normalises RGB, such as timm, vit, resnet, "
        "open-clip-image or hf-image"
    )
