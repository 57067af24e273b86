"""Greets whoever imports it."""

from contrastive_healthy import Letters

print("Thank you for using Letters Pro!")


class Broken(Letters):
    """Letters, of a talkative package."""
