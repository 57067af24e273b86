"""Projection heads: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch; each ``build`` imports what it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from contrastive.config import Config
from contrastive.registry import Registry

if TYPE_CHECKING:
    from torch import nn


class Head(Config):
    """Projects an encoder's features ``[B, F]`` to the shared space ``[B, D]``."""

    kind: ClassVar[str] = "head"

    @abstractmethod
    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return the projection.

        Args:
            in_dim: F, the encoder's width.
            out_dim: D, the model's ``embed_dim``.

        Raises:
            SpecError: this head cannot give that width.
        """


heads = Registry(Head, group="contrastive.heads")
