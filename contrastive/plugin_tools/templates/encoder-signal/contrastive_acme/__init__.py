"""The encoder ``acme``. Config only: torch is imported in ``build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from contrastive.interface import Encoder
from pydantic import Field

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule

__all__ = ["AcmeEncoder"]


class AcmeEncoder(Encoder):
    """One convolution over a signal (a sequence of numbers), averaged over time."""

    modality: ClassVar[str] = "MODALITY"

    width: Annotated[int, Field(gt=0, le=65_536)] = 64
    """Features."""
    window: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Numbers that one step of the convolution sees; shorter signals are padded by zeros."""

    def build(self) -> EncoderModule:
        """Return the module ``AcmeEncoderModule`` with random weights."""
        from contrastive_acme.network import AcmeEncoderModule

        return AcmeEncoderModule(self)
