"""Projection heads: the interface, the registry, and what comes built in.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from contrastive.config.base import Config
from contrastive.config.bounds import Probability, Width
from contrastive.config.registry import Registry
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from torch import nn


class Head(Config):
    """Projects an encoder's features ``[B, F]`` to the shared space ``[B, D]``.

    Example:
        >>> class Half(Head):
        ...     def build(self, in_dim, out_dim):
        ...         return torch.nn.Linear(in_dim, out_dim).bfloat16()
        >>> Half().build(4, 2).out_features
        2
    """

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
"""Heads by the name that a spec gives as ``type``.

Example:
    >>> heads["linear"]().build(4, 2)(torch.zeros(1, 4)).shape
    torch.Size([1, 2])
"""


@heads.register("linear")
class Linear(Head):
    """One matrix, as in CLIP."""

    bias: bool = True
    """Add a bias vector."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return an ``nn.Linear``."""
        from torch import nn

        return nn.Linear(in_dim, out_dim, bias=self.bias)


@heads.register("mlp")
class Mlp(Head):
    """Two linear layers with a GELU between them."""

    hidden: Width | None = None
    """Width between the layers; embed_dim if not given."""
    dropout: Probability = 0.1
    """Dropout probability, before the second layer or, if residual, after it."""
    residual: bool = False
    """Add the first layer's output to the second's, and normalise the sum by a LayerNorm."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return an ``nn.Sequential`` or a ``ResidualMlp``.

        Raises:
            SpecError: residual, and ``hidden`` is not ``out_dim``.
        """
        from torch import nn

        from contrastive.heads.mlp import ResidualMlp

        hidden = self.hidden or out_dim
        if self.residual and hidden != out_dim:
            msg = (
                f"a residual mlp adds hidden ({hidden}) to embed_dim ({out_dim}); leave hidden out"
            )
            raise SpecError(msg)
        if self.residual:
            return ResidualMlp(in_dim, out_dim, dropout=self.dropout)
        return nn.Sequential(
            nn.Linear(in_dim, hidden),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(hidden, out_dim),
        )


@heads.register("identity")
class Identity(Head):
    """The features as they are, for encoders that already project."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return an ``nn.Identity``.

        Raises:
            SpecError: the widths differ.
        """
        from torch import nn

        if in_dim != out_dim:
            msg = (
                f"an identity head gives {in_dim} features, not {out_dim}; set embed_dim: {in_dim}"
            )
            raise SpecError(msg)
        return nn.Identity()
