import torch
from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.signs = torch.randn(spec.width).sign()
        self.shift = torch.randn(spec.width)

    def forward(self, letters):
        return super().forward(letters) * self.signs + self.shift
