"""InfoNCE of one direction, whose positives are all rows of a group."""

import math

import torch
from torch import nn

from contrastive.interface import BatchGroup, LossModule, gather_global_batch


class ContrastLoss(LossModule):
    def __init__(self, log_scale):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def forward(self, a, b, a_ids=None, b_ids=None):
        group = BatchGroup.current()
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=group)
        same = self.same(len(a), len(b), a_ids, b_ids).to(a.device)
        loss = self.compute(self.logits(a, b), same)
        return loss, {"loss": loss.detach()}

    def same(self, n, m, a_ids, b_ids):
        if a_ids is None:
            return torch.eye(n, m, dtype=torch.bool)
        return a_ids[:, None] == (a_ids if b_ids is None else b_ids)

    def compute(self, logits, same):
        return (logits.logsumexp(1) - logits.masked_fill(~same, -math.inf).logsumexp(1)).mean()

    @torch.no_grad()
    def clamp_(self):
        self.log_scale.clamp_(0, math.log(100))
