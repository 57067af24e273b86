"""Takes any field, also a misspelt one."""

from contrastive_healthy import Letters


class Broken(Letters, extra="ignore"):
    """Letters, from specs of other versions."""
