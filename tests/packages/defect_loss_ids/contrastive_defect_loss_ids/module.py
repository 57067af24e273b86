import torch
from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def same(self, n, m, a_ids, b_ids):
        return torch.eye(n, m, dtype=torch.bool)
