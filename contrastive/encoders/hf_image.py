"""Image models of transformers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from contrastive.console import say
from contrastive.encoders.hf_dual import ProcessImages
from contrastive.encoders.huggingface import load_half, load_image_processor, pool
from contrastive.encoders.image import ImageTransform
from contrastive.encoders.module import EncoderModule
from contrastive.encoders.promises import measure_out_dim
from contrastive.encoders.weights import folder_config

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.encoders import HFImage


class HFImageModule(EncoderModule):
    """What the image processor gives, to pooled hidden states ``[B, F]``."""

    modality = "image"

    def __init__(self, spec: HFImage) -> None:
        """Load the model and its image processor."""
        super().__init__()
        self.who = f"hf-image {spec.name!r}"
        self.pooling = spec.pooling
        self.model, _, folder = load_half(spec, self.who)
        self.folder_config = folder_config(folder)
        processor = load_image_processor(folder, self.who)
        steps = " ".join(processor.to_json_string().split())
        self.preprocess = ImageTransform(Process(processor), steps)
        if _required(self.model) - {"pixel_values"}:  # a SigLIP 2 wants the places of its patches
            self.preprocess = ProcessImages(processor, steps)
        # Hiera's config has a mask_ratio, too, of which its encoder makes no use
        self.drops_patches = hasattr(getattr(self.model, "embeddings", None), "random_masking")
        if self.drops_patches and (ratio := self.model.config.mask_ratio):
            self.model.config.mask_ratio = 0.0
            say(f"{self.who}: its mask_ratio of {ratio} is set to 0, so that it sees all patches")
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, Image.new("RGB", (64, 64)), self.who)

    def forward(self, image: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]``."""
        if image is not None:
            inputs["pixel_values"] = image
        if self.drops_patches:  # and shuffles them
            inputs["noise"] = _in_order(self.model, inputs["pixel_values"])
        mask = inputs.get("pixel_attention_mask")
        return pool(self.model(**inputs), mask, self.pooling, self.who)


def _required(model: Any) -> set[str]:
    """Return the inputs that a model cannot do without."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}


def _in_order(model: Any, pixels_BCHW: Tensor) -> Tensor:
    """Return ``noise`` for a masked autoencoder, by which it sorts its patches."""
    patches = model.embeddings.patch_embeddings.num_patches
    return torch.arange(patches, device=pixels_BCHW.device).expand(len(pixels_BCHW), -1)


@dataclass(frozen=True)
class Process:
    """An image processor, one image at a time, so that none depends on its batch."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        """Return ``[3, H, W]``."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]
