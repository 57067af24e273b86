"""Cannot be trained: its vectors are taken without gradients."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_detached.module import Module

        return Module(self)
