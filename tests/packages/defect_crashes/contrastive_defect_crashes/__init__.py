"""Takes for granted that a sample is a text."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_crashes.module import Module

        return Module(self)
