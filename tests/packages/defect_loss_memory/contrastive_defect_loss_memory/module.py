import torch
from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def __init__(self, log_scale):
        super().__init__(log_scale)
        self.mean = torch.zeros(())

    def compute(self, logits, same):
        loss = super().compute(logits, same)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss * (1 + self.mean)
