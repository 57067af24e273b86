"""Centres features by a running mean that every call moves."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_drift.module import Module

        return Module(self)
