from contrastive_healthy.letters import LettersModule, Spell

from contrastive.encoders.text import as_text


class Words(Spell):
    def letters(self, sample):
        return [hash(word) % 256 for word in as_text(sample).split()][: self.max_length]


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.preprocess = Words(spec.max_length)
