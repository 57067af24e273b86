"""Has a field that nobody explains."""

from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, some of them."""

    stride: int = 1
