"""Drops features in eval mode, too."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_dropout.module import Module

        return Module(self)
