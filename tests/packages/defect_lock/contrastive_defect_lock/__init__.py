"""Holds a lock, which no worker can have."""

from contrastive_healthy import Squares


class Broken(Squares):
    """Squares, with a mistake."""

    def build(self, split, *, purpose="evaluation"):
        """Paint them with the mistake."""
        from contrastive_defect_lock.rows import Rows

        return Rows(*vars(super().build(split, purpose=purpose)).values())
