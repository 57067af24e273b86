"""Losses: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch; each ``build`` imports what it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from contrastive.config import Config
from contrastive.registry import Registry

if TYPE_CHECKING:
    from contrastive.losses.module import LossModule


class Loss(Config):
    """Says how well paired embeddings agree."""

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def build(self) -> LossModule:
        """Return the loss with its learnable parameters (``log_scale``, maybe ``bias``)."""


losses = Registry(Loss, group="contrastive.losses")
