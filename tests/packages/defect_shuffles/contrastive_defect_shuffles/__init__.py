"""Shuffles its rows by itself."""

import random

from contrastive_healthy import Squares


class Broken(Squares):
    """Squares, with a mistake."""

    def build(self, split, *, purpose="evaluation"):
        """Paint them in any order."""
        from contrastive_healthy.squares import Painted

        painted = super().build(split, purpose=purpose)
        return Painted(self.side, tuple(random.sample(painted.pairs, len(painted))))
