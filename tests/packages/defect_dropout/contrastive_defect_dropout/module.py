from contrastive_healthy.letters import LettersModule
from torch.nn.functional import dropout


class Module(LettersModule):
    def forward(self, letters):
        return dropout(super().forward(letters), 0.1)
