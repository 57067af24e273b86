"""timm's ResNet with random weights, to be trained from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.extras import require
from contrastive.encoders.image_transform import ImageModule, augmentation, centre_crop

if TYPE_CHECKING:
    from contrastive.encoders import ResNet


def build_resnet(spec: ResNet) -> ImageModule:
    """Return timm's ResNet with random weights, globally averaged."""
    resnet = require("timm.models.resnet", extra="timm")
    net = resnet.ResNet(
        resnet.BasicBlock if spec.block == "basic" else resnet.Bottleneck,
        spec.layers,
        channels=tuple(spec.width * 2**stage for stage in range(4)),
        num_classes=0,
    )
    module = ImageModule(net, net.head_hidden_size, centre_crop(spec.image_size))
    module.augment = augmentation(spec.augment, spec.image_size)
    return module
