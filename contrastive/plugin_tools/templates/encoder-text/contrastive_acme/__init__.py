"""The text encoder ``acme``. Config only: torch is imported in ``build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from contrastive.interface import Encoder
from pydantic import Field

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule

__all__ = ["AcmeEncoder"]


class AcmeEncoder(Encoder):
    """The mean of the vectors of a text's trigrams (three characters in a row), from scratch."""

    modality: ClassVar[str] = "text"

    width: Annotated[int, Field(gt=0, le=65_536)] = 64
    """Features."""
    buckets: Annotated[int, Field(gt=0, le=2**27)] = 4096
    """Vectors; trigrams share them by a hash."""
    max_length: Annotated[int, Field(gt=0, le=1_048_576)] = 256
    """Characters; the rest of a text is cut off."""

    def build(self) -> EncoderModule:
        """Return the module ``AcmeEncoderModule`` with random weights."""
        from contrastive_acme.network import AcmeEncoderModule

        return AcmeEncoderModule(self)
