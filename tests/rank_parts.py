"""Losses and a head of somebody's own, some of which are not made for several ranks."""

from __future__ import annotations

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from contrastive.interface import (
    BatchGroup,
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


class ForgetfulNormHead(Head):
    """Ends with BatchNorm that keeps no running statistics."""

    def build(self, in_dim, out_dim):
        norm = nn.BatchNorm1d(out_dim, track_running_stats=False)
        return nn.Sequential(nn.Linear(in_dim, out_dim), norm)


class RoutedHead(Head):
    """Sends the rows of one rank through a layer that the other's do not take."""

    def build(self, in_dim, out_dim):
        return RoutedModule(in_dim, out_dim)


class RoutedModule(nn.Module):
    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.net, self.expert = nn.Linear(in_dim, out_dim), nn.Linear(in_dim, out_dim, bias=False)

    def forward(self, x):
        return self.net(x) + self.expert(x) if dist.get_rank() else self.net(x)


class EndingModule(PlainModule):
    def forward(self, a, b, a_ids=None, b_ids=None):
        if dist.is_initialized() and not dist.get_rank():
            raise RuntimeError("not on two ranks")
        a, b, _, _ = gather_global_batch(a, b, None, None, group=BatchGroup.current())
        return super().forward(a, b)


class Ending(Loss):
    """Fails on one of two ranks, and lets the other wait."""

    def build(self):
        return EndingModule()
