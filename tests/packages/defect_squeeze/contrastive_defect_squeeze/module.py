from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def forward(self, letters):
        return super().forward(letters).squeeze()
