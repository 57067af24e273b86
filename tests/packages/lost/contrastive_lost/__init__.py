"""A head and a dataset that are used, saved, and then not installed any more."""

from typing import Any

from contrastive.datasets import Dataset, Purpose
from contrastive.heads import Head


class LostHead(Head):
    """One matrix."""

    def build(self, in_dim: int, out_dim: int) -> Any:
        from torch import nn

        return nn.Linear(in_dim, out_dim)


class LostData(Dataset):
    """Nothing."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Any:
        raise NotImplementedError
