"""Images to features.

Shapes: B images, 3 channels, S by S pixels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from contrastive.interface import EncoderModule, open_image, sample_list
from PIL import ImageOps
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.interface import ImageSource

    from contrastive_acme import AcmeEncoder


class AcmeEncoderModule(EncoderModule):
    """Two convolutions of stride 2 and the mean over what is left of the image."""

    modality = "image"

    def __init__(self, config: AcmeEncoder) -> None:
        """Draw random weights."""
        super().__init__()
        self.out_dim = config.width
        self.preprocess = Pixels(config.image_size)
        self.net = nn.Sequential(
            nn.Conv2d(3, config.width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(config.width, config.width, kernel_size=3, stride=2, padding=1),
            nn.GELU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, F]`` of pixels ``[B, 3, S, S]``."""
        return self.net(image).mean((2, 3))


@dataclass(frozen=True)
class Pixels:
    """Crops the centre of each image. Picklable, as it runs in the workers that read samples."""

    size: int

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"image": [B, 3, S, S]}`` with values from -1 to 1.

        Raises:
            BadSample: an image cannot be read.
        """
        square = (self.size, self.size)
        opened = [open_image(sample) for sample in sample_list(samples, "image")]
        images = [np.asarray(ImageOps.fit(image, square)) for image in opened]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return {"image": pixels.float().div(127.5).sub(1)}
