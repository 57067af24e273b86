"""A menu that imports torch, which it should not; only whoever names it waits for that."""

import torch

from contrastive.heads import Head


class Heavy(Head):
    """Takes a second to import."""

    def build(self, in_dim: int, out_dim: int) -> torch.nn.Module:
        return torch.nn.Linear(in_dim, out_dim)
