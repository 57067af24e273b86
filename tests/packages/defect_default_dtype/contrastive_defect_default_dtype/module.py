import torch
from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def __init__(self, spec):
        torch.set_default_dtype(torch.float64)
        super().__init__(spec)
