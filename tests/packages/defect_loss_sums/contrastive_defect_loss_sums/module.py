from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def compute(self, logits, same):
        return super().compute(logits, same) * len(logits)
