from collections.abc import Callable
from dataclasses import dataclass, field

from contrastive_healthy.letters import LettersModule, Spell


@dataclass(frozen=True)
class Tidy(Spell):
    clean: Callable[[str], str] = field(default=lambda text: text, repr=False)

    def letters(self, sample):
        return self.clean(super().letters(sample))


class Module(LettersModule):
    def __init__(self, spec):
        super().__init__(spec)
        self.preprocess = Tidy(spec.max_length, clean=lambda text: text.lower())
