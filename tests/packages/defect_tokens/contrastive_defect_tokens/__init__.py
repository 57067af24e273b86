"""Gives a vector for each letter."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_tokens.module import Module

        return Module(self)
