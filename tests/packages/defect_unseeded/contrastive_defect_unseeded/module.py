import numpy as np
import torch
from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        drawn = np.random.default_rng().normal(size=self.table.weight.shape)
        self.table.weight.data.copy_(torch.from_numpy(drawn))
