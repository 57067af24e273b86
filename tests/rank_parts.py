"""Losses and a head of somebody's own, some of which are not made for several ranks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from contrastive.interface import (
    Head,
    Loss,
    LossModule,
    Scaled,
    ScaledLoss,
    gather_global_batch,
)


class PlainModule(LossModule):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, a, b, a_ids=None, b_ids=None):
        return cross_entropy(self.logits(a, b), torch.arange(len(a), device=a.device)), {}


class Plain(Loss):
    """Takes the rows of its own rank for the batch."""

    def build(self):
        return PlainModule()


class Gathering(Scaled):
    """Gathers the batch."""

    gathers: bool = True

    def build(self):
        return GatheringModule(self)


class GatheringModule(ScaledLoss[Gathering]):
    def compute(self, a, b, a_ids, b_ids, group):
        if self.config.gathers:
            a, b, _, _ = gather_global_batch(a, b, a_ids, b_ids, group=group)
        return cross_entropy(self.logits(a, b), torch.arange(len(a), device=a.device)), {}


class NormHead(Head):
    """Ends with BatchNorm."""

    def build(self, in_dim, out_dim):
        return nn.Sequential(nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim))
