"""Augments by Python's dice, which training does not seed."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_own_dice.module import Module

        return Module(self)
