"""Squeezes more than it should, which a batch of one shows."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_squeeze.module import Module

        return Module(self)
