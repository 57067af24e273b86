import torch
from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("centre", torch.zeros(spec.width))

    def forward(self, letters):
        features = super().forward(letters)
        self.centre.data.lerp_(features.detach().mean(0), 0.1)
        return features - self.centre
