from contrastive_healthy.letters import LettersModule
from torch import nn


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.project = nn.Linear(spec.width, 2 * spec.width)

    def forward(self, letters):
        return self.project(super().forward(letters))
