from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def forward(self, letters):
        return self.table(letters)
