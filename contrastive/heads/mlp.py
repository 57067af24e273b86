"""The projection head that adds its two layers up.

Shapes: B rows, F features, D the embedding's width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu


class ResidualMlp(nn.Module):
    """``x = W1 f``, then ``LayerNorm(x + dropout(W2 gelu(x)))``.

    The head of the Keras example on dual encoders (Salama 2021, "Natural language image search
    with a Dual Encoder"), with one block.
    """

    def __init__(self, in_dim: int, out_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, out_dim)
        self.refine = nn.Linear(out_dim, out_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``[B, F]``."""
        x_BD = self.project(features)
        return self.norm(x_BD + self.dropout(self.refine(gelu(x_BD))))
