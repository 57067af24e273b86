"""The loss ``acme``. Config only: torch is imported in ``build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from contrastive.interface import Scaled
from pydantic import Field

if TYPE_CHECKING:
    from contrastive.interface import LossModule

__all__ = ["AcmeLoss"]


class AcmeLoss(Scaled):
    """InfoNCE whose positives have to be closer than the rest by a margin.

    The margin of CosFace (Wang et al. 2018, arXiv:1801.09414), for pairs.
    """

    margin: Annotated[float, Field(ge=0, lt=2)] = 0.1
    """Subtracted from the cosine of every positive."""

    def build(self) -> LossModule:
        """Return the module ``AcmeLossModule``."""
        from contrastive_acme.margin import AcmeLossModule

        return AcmeLossModule(self)
