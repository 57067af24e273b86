"""The image encoder ``acme``. Config only: torch is imported in ``build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from contrastive.interface import Encoder
from pydantic import Field

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule

__all__ = ["AcmeEncoder"]


class AcmeEncoder(Encoder):
    """Two convolutions from scratch, averaged over the image."""

    modality: ClassVar[str] = "image"

    width: Annotated[int, Field(gt=0, le=65_536)] = 64
    """Features."""
    image_size: Annotated[int, Field(gt=0, le=8_192)] = 32
    """Pixels of the square that an image is cropped to."""

    def build(self) -> EncoderModule:
        """Return the module ``AcmeEncoderModule`` with random weights."""
        from contrastive_acme.network import AcmeEncoderModule

        return AcmeEncoderModule(self)
