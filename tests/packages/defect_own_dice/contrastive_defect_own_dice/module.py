import random

from contrastive_healthy.letters import LettersModule, Spell


class Forgetful(Spell):
    def letters(self, sample):
        return bytes(x for x in super().letters(sample) if random.random() > 0.2)


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.augment = Forgetful(spec.max_length)
