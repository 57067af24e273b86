"""Draws its first weights from a generator of its own."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_unseeded.module import Module

        return Module(self)
