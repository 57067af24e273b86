from contrastive_healthy.contrast import ContrastLoss


class Module(ContrastLoss):
    def clamp_(self):
        pass
