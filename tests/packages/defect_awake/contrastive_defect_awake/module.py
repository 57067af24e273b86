from contrastive_healthy.letters import LettersModule


class Module(LettersModule):
    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self
