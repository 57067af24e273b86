"""Has preprocessing whose repr is an address in memory."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, with a mistake."""

    def build(self):
        """Return the module with the mistake."""
        from contrastive_defect_address.module import Module

        return Module(self)
