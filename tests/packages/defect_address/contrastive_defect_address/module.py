from contrastive_healthy.letters import LettersModule, Spell


class Reader:
    def __init__(self, max_length):
        self.spell = Spell(max_length)

    def __call__(self, samples):
        return self.spell(samples)


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.preprocess = Reader(spec.max_length)
