"""The head ``acme``. Config only: torch is imported in ``build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.interface import Head

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AcmeHead"]


class AcmeHead(Head):
    """One matrix over normalised features, so that their scale does not matter."""

    bias: bool = True
    """Add a vector too."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return the module ``AcmeHeadModule`` with random weights."""
        from contrastive_acme.projection import AcmeHeadModule

        return AcmeHeadModule(in_dim, out_dim, bias=self.bias)
