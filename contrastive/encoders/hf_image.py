"""Image models of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from contrastive.encoders.huggingface import (
    load_half,
    load_image_processor,
    measure_out_dim,
    pool,
)
from contrastive.encoders.image import ImageTransform
from contrastive.encoders.module import EncoderModule

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.encoders import HFImage


class HFImageModule(EncoderModule):
    """Pixels ``[B, 3, H, W]`` to pooled hidden states ``[B, F]``."""

    modality = "image"

    def __init__(self, spec: HFImage) -> None:
        """Load the model and its image processor."""
        super().__init__()
        self.who = f"hf-image {spec.name!r}"
        self.pooling = spec.pooling
        self.model, folder = load_half(spec, self.who)
        processor = load_image_processor(folder, self.who)
        steps = " ".join(processor.to_json_string().split())
        self.preprocess = ImageTransform(Process(processor), steps)
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, Image.new("RGB", (64, 64)), self.who)

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, F]``."""
        return pool(self.model(pixel_values=image), None, self.pooling, self.who)


@dataclass(frozen=True)
class Process:
    """An image processor, one image at a time, so that none depends on its batch."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        """Return ``[3, H, W]``."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]
