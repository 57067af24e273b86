"""Sets torch's default dtype for all, to build itself in float64."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_default_dtype.module import Module

        return Module(self)
