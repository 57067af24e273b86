"""Image encoders of models that may choose among places, which run one by one where that counts.

Shapes: B images, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.encoders.module import EncoderModule

CHOICES = ("topk", "sort", "argmax", "argmin")
"""Operators of which a rounded number may change a whole result: RF-DETR decodes its best places,
and how sums are rounded depends on how many images are in a batch."""


class ImageEncoder(EncoderModule):
    """What an image processor gives, to features ``[B, F]``."""

    modality = "image"
    one_by_one: bool = False
    """What else is in a batch changes features, if only of some images."""

    @abstractmethod
    def encode(self, **inputs: Any) -> Tensor:
        """Return features ``[B, F]`` of a batch."""

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of what ``preprocess`` gives."""
        images = len(next(iter(inputs.values())))
        if not self.one_by_one or images < 2:
            return self.encode(**inputs)
        each = [{name: x[i : i + 1] for name, x in inputs.items()} for i in range(images)]
        return torch.cat([self.encode(**one) for one in each])


class Choices(TorchDispatchMode):
    """A context that learns whether a model chooses among numbers that it computes."""

    made: bool = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # a signature of torch
        """Run an operator."""
        name = func.overloadpacket.__name__
        if name in CHOICES and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self.made = True
        return func(*args, **(kwargs or {}))
