"""A plugin of every kind with nothing wrong; each ``defect_*`` gets one thing of it wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from contrastive.datasets import Dataset, Purpose
from contrastive.encoders import Encoder
from contrastive.heads import Head
from contrastive.losses import Loss

if TYPE_CHECKING:
    from torch import nn

    from contrastive.data.samples import Samples
    from contrastive.encoders.module import EncoderModule
    from contrastive.losses.module import LossModule


class Letters(Encoder):
    """The mean of vectors of letters."""

    modality: ClassVar[str] = "text"

    width: PositiveInt = 8
    """Of each vector."""
    max_length: PositiveInt = 40
    """Bytes of a text that are read."""

    def build(self) -> EncoderModule:
        """Return the table of vectors."""
        from contrastive_healthy.letters import LettersModule

        return LettersModule(self)


class Gate(Head):
    """A projection that a second one opens and shuts."""

    dropout: float = 0.1
    """Share of features zeroed in training."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return both projections."""
        from contrastive_healthy.gate import GateModule

        return GateModule(in_dim, out_dim, self.dropout)


class Contrast(Loss):
    """Each row of a picks its partners among b."""

    temperature: PositiveFloat = 0.1
    """Divides the cosines at first."""

    def build(self) -> LossModule:
        """Return the loss with its temperature."""
        from contrastive_healthy.contrast import ContrastLoss

        return ContrastLoss(-math.log(self.temperature))


class Squares(Dataset):
    """Squares in some colours, two captions each."""

    side: PositiveInt = 16
    """Of an image, in pixels."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Paint the squares of a split."""
        from contrastive_healthy.squares import paint

        return paint(split, self.side, captions=1 if purpose == "training" else 2)
