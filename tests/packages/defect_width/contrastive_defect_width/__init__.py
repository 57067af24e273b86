"""Says the width of its vectors, and gives another."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_width.module import Module

        return Module(self)
