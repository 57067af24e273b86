"""Takes hash() of a name as its id."""

from contrastive_healthy import Squares


class Broken(Squares):
    """Squares, with a mistake."""

    def build(self, split, *, purpose="evaluation"):
        """Paint them with the mistake."""
        from contrastive_defect_hashed_ids.rows import Rows

        return Rows(*vars(super().build(split, purpose=purpose)).values())
