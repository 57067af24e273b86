"""Keeps BatchNorm in training mode, so that it adapts to new data."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_awake.module import Module

        return Module(self)
