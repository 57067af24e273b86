"""Keeps a tensor that no state dict has."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_forgets.module import Module

        return Module(self)
