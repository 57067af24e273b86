from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def logits(self, a, b):
        return a.float() @ b.float().T / self.log_scale.exp()

    def forward(self, a, b, a_ids=None, b_ids=None):
        import torch

        with torch.autocast(a.device.type, enabled=False):
            return super().forward(a, b, a_ids, b_ids)
