"""Sorts texts by length, as packing wants, and does not undo it."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_sorts.module import Module

        return Module(self)
