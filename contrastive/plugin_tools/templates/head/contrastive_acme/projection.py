"""Features to the shared space.

Shapes: B rows, F features, D the shared width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class AcmeHeadModule(nn.Module):
    """A LayerNorm and a matrix."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool = True) -> None:
        """Draw random weights."""
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.project = nn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``[B, F]``; the tower normalises it afterwards."""
        return self.project(self.norm(features))
