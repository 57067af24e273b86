"""A second tower for whatever is examined."""

from __future__ import annotations

from typing import ClassVar

from contrastive.encoders import CBOW


class Counterpart(CBOW):
    """A bag of words under another modality, so that a text encoder has a counterpart too."""

    modality: ClassVar[str] = "counterpart"
