"""Doubles a field whenever it is read."""

from contrastive_healthy import Letters
from pydantic import field_validator


class Broken(Letters):
    """Letters, whose width is given for one direction."""

    @field_validator("width")
    @classmethod
    def _both_directions(cls, value):
        return 2 * value
