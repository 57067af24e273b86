"""Images to pixels, and any network from pixels to features.

Shapes: B images, 3 channels, H by W pixels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.data.images import open_image
from contrastive.data.raw_samples import sample_list
from contrastive.encoders.device_normalisation import composed_bytes_first, odd_pixels
from contrastive.encoders.module import EncoderModule
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from PIL import Image
    from torch import Tensor, nn

    from contrastive.data.images import ImageSource
    from contrastive.encoders import Augment
    from contrastive.encoders.device_normalisation import PixelNormalisation

MODES = {1: "L", 3: "RGB"}
"""Of PIL, by the channels that a network takes."""
HALF = (0.5, 0.5, 0.5)  # mean and deviation that map [0, 1] to [-1, 1]


def mode_of(channels: int, who: str) -> str:
    """Return the mode of the images that a network takes: grey ones if it has one channel.

    Raises:
        SpecError: it takes other images.
    """
    if channels not in MODES:
        msg = f"{who}: takes images of {channels} channels, not of 3 or 1; choose another model"
        raise SpecError(msg)
    return MODES[channels]


def mode_for(config: Any, processor: Any, who: str) -> str:
    """Return the mode of images for a model of transformers, and let its processor keep it.

    Raises:
        SpecError: they take other images, or the processor makes 3 channels of a grey one.
    """
    mode = mode_of(getattr(config, "num_channels", 3), who)
    if mode == "L" and len(processor.image_mean) != 1:
        msg = (
            f"{who}: the model takes grey images, and its processor makes them of 3 channels; "
            "give image_mean and image_std one number each in preprocessor_config.json"
        )
        raise SpecError(msg)
    if mode == "L":
        processor.do_convert_rgb = False  # as CLIP's does, which makes 3 channels of one
    if problem := odd_pixels(processor):
        say(f"{who}: {problem}")
    return mode


@dataclass(frozen=True)
class ImageTransform:
    """Opens images and transforms each: the ``preprocess`` of an image encoder.

    Example:
        >>> from torchvision.transforms.functional import to_tensor
        >>> ImageTransform(to_tensor, "to_tensor")([red, blue])["image"].shape
        torch.Size([2, 3, 32, 32])
    """

    transform: Callable[[Image.Image], Tensor] = field(repr=False)
    """RGB image to ``[3, H, W]``, or ``[1, H, W]`` for a network of grey ones."""
    steps: str
    """Every step and parameter of it, for the ``repr``."""

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"image": [B, 3, H, W]}``.

        Raises:
            BadSample: an image cannot be read.
            SizesDifferError: the transform gives images of different sizes.
        """
        images = self.each(samples)
        check_one_size(images)
        return {"image": torch.stack(images)}

    def bytes_first(self) -> tuple[ImageTransform, PixelNormalisation] | None:
        """Return a transform without rescaling and normalising, and these, where they come last."""
        split = getattr(self.transform, "bytes_first", lambda: composed_bytes_first(self.transform))
        if (found := split()) is None:
            return None
        raw, normalise = found
        return ImageTransform(raw, f"bytes of {self.steps}"), normalise

    def each(self, samples: Sequence[ImageSource]) -> list[Tensor]:
        """Return images ``[C, H, W]``, each of its own size."""
        several = sample_list(samples, "image", least=1)
        return [self.transform(open_image(sample)) for sample in several]


class SizesDifferError(SpecError):
    """Images of different sizes form no batch."""


def check_one_size(images: Iterable[Tensor]) -> None:
    """Insist on images that form a batch.

    Raises:
        SizesDifferError: they are.
    """
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        msg = (
            f"the processor gives images of different sizes ({shapes}); let it resize all to one "
            "height and width (size in preprocessor_config.json), or crop them"
        )
        raise SizesDifferError(msg)


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


def augmentation(
    kind: Augment,
    size: int | Sequence[int],
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
    interpolation: str = "bicubic",
    mode: str = "RGB",
) -> ImageTransform | None:
    """Return what changes an image at random while training, or None; the randomness is torch's.

    ``simclr`` is the recipe of Chen et al. 2020 (arXiv:2002.05709, appendix A) at strength 1.
    """
    if kind == "none":
        return None
    v = require("torchvision.transforms", extra="timm")
    crop = v.RandomResizedCrop(
        size,
        # not the 0.08 of classifiers: a caption tells of the whole image
        scale=(0.5, 1.0) if kind == "crop-flip" else (0.08, 1.0),
        interpolation=v.InterpolationMode(interpolation),
    )
    steps = [crop, v.RandomHorizontalFlip()]
    if kind == "simclr":
        side = size if isinstance(size, int) else min(size)
        blur = v.GaussianBlur(side // 10 // 2 * 2 + 1, sigma=(0.1, 2.0))  # a tenth, made odd
        steps += [
            v.RandomApply([v.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v.RandomGrayscale(p=0.2),
            v.RandomApply([blur], p=0.5),
        ]
    steps += [v.Grayscale()] if mode == "L" else []
    return _composed([*steps, v.ToTensor(), v.Normalize(tuple(mean), tuple(std))])


def _composed(steps: list[Any]) -> ImageTransform:
    v = require("torchvision.transforms", extra="timm")
    return ImageTransform(v.Compose(steps), ", ".join(map(repr, steps)))
