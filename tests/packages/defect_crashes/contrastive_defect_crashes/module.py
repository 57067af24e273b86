from contrastive_healthy.letters import LettersModule, Spell


class Trusting(Spell):
    def letters(self, sample):
        return sample.strip().encode(errors="replace")[: self.max_length]


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.preprocess = Trusting(spec.max_length)
