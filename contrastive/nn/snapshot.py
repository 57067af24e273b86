"""What a forward pass changes: generators of random numbers, and buffers such as BatchNorm's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from torch import nn


class Snapshot:
    """The state of a module in training mode before a step, but for its parameters."""

    def __init__(self, module: nn.Module) -> None:
        """Copy it."""
        self._random = RngState()
        self._buffers = [
            (part, name, buffer.clone())
            for part in module.modules()
            if part.training  # what is frozen stays as it is
            for name, buffer in part.named_buffers(recurse=False)
        ]

    def restore(self) -> None:
        """Put it back."""
        self._random.restore()
        for part, name, buffer in self._buffers:
            setattr(part, name, buffer)
