"""Numbers words by hash(), which differs from process to process."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_hashes.module import Module

        return Module(self)
