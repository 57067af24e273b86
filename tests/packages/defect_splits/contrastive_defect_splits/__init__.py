"""Looks an unknown split up in a dict."""

from contrastive_healthy import Squares


class Broken(Squares):
    """Squares, with a mistake."""

    def build(self, split, *, purpose="evaluation"):
        """Paint the squares of a split that is known."""
        from contrastive_healthy.squares import SPLITS

        first = next(name for name in split.split("+"))
        return super().build(split, purpose=purpose) if SPLITS[first] else None
