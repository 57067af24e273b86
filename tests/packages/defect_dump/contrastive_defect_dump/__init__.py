"""Writes lengths with a unit that it does not read."""

from contrastive_healthy import Letters
from pydantic import field_serializer


class Broken(Letters):
    """Letters, dumped for people."""

    @field_serializer("max_length")
    def _with_unit(self, value):
        return f"{value} bytes"
