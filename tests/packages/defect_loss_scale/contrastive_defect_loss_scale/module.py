import torch
from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def __init__(self, log_scale):
        super().__init__(log_scale)
        del self.log_scale
        self.log_scale = torch.tensor(log_scale, requires_grad=True)
