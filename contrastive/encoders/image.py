"""Pictures to pixels, and any network from pixels to features.

Shapes: B pictures, 3 channels, H by W pixels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from contrastive.encoders.module import EncoderModule
from contrastive.errors import SpecError, require
from contrastive.images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image
    from torch import Tensor, nn

    from contrastive.images import ImageSource

HALF = (0.5, 0.5, 0.5)  # mean and deviation that map [0, 1] to [-1, 1]


@dataclass(frozen=True)
class ImageTransform:
    """Opens pictures and transforms each: the ``preprocess`` of an image encoder."""

    transform: Callable[[Image.Image], Tensor] = field(repr=False)
    """RGB picture to ``[3, H, W]``."""
    steps: str
    """Every step and parameter of it, for the ``repr``."""

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"image": [B, 3, H, W]}``.

        Raises:
            BadSample: a picture cannot be read.
            SpecError: the transform gives pictures of different sizes.
        """
        images = [self.transform(open_image(sample)) for sample in samples]
        if len(shapes := {tuple(image.shape) for image in images}) > 1:
            msg = f"the processor gives pictures of different sizes ({shapes}); it has to crop them"
            raise SpecError(msg)
        return {"image": torch.stack(images)}


class ImageModule(EncoderModule):
    """A network that takes pixels ``[B, 3, H, W]`` and gives features ``[B, F]``."""

    modality = "image"

    def __init__(self, net: nn.Module, out_dim: int, preprocess: ImageTransform) -> None:
        """Join a network and its transform."""
        super().__init__()
        self.net = net
        self.out_dim = out_dim
        self.preprocess = preprocess

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, F]``."""
        return self.net(image)


def centre_crop(size: int) -> ImageTransform:
    """Resize the shorter side, crop the centre, map to [-1, 1]: for networks without their own."""
    v = require("torchvision.transforms", extra="timm")
    resize = v.Resize(size, interpolation=v.InterpolationMode.BICUBIC)
    return _composed([resize, v.CenterCrop(size), v.ToTensor(), v.Normalize(HALF, HALF)])


def crop_flip(
    size: int | Sequence[int],
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    interpolation: str = "bicubic",
) -> ImageTransform:
    """Crop and flip at random; the randomness is torch's."""
    v = require("torchvision.transforms", extra="timm")
    crop = v.RandomResizedCrop(
        size,
        scale=(0.5, 1.0),  # not the 0.08 of classifiers: a caption tells of the whole picture
        interpolation=v.InterpolationMode(interpolation),
    )
    normalize = v.Normalize(tuple(mean), tuple(std))
    return _composed([crop, v.RandomHorizontalFlip(), v.ToTensor(), normalize])


def _composed(steps: list[Any]) -> ImageTransform:
    v = require("torchvision.transforms", extra="timm")
    return ImageTransform(v.Compose(steps), ", ".join(map(repr, steps)))
