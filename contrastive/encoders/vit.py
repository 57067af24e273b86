"""timm's vision transformer with random weights, to be trained from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.extras import require
from contrastive.encoders.image_transform import ImageModule, augmentation, centre_crop

if TYPE_CHECKING:
    from contrastive.encoders import ViT


def build_vit(spec: ViT) -> ImageModule:
    """Return timm's VisionTransformer with random weights, its patches averaged."""
    net = require("timm.models.vision_transformer", extra="timm").VisionTransformer(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        embed_dim=spec.width,
        depth=spec.depth,
        num_heads=spec.heads,
        class_token=False,
        global_pool="avg",
        num_classes=0,
    )
    module = ImageModule(net, spec.width, centre_crop(spec.image_size))
    module.augment = augmentation(spec.augment, spec.image_size)
    return module
