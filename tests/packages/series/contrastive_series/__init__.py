"""An encoder of another modality."""

from typing import ClassVar

from contrastive.encoders import Encoder


class Series(Encoder):
    """Eight numbers, of whatever they are."""

    modality: ClassVar[str] = "series"

    def build(self):
        """Return a linear map of the numbers."""
        from contrastive_series.module import Module

        return Module()
