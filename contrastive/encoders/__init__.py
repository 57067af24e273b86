"""Encoders: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch; each ``build`` imports what it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from contrastive.config import Config
from contrastive.registry import Registry

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule


class Encoder(Config):
    """Turns raw samples of one modality into one feature vector each."""

    kind: ClassVar[str] = "encoder"
    modality: ClassVar[str]
    """What it encodes: ``image``, ``text``, ...; the key of its tower."""

    @abstractmethod
    def build(self) -> EncoderModule:
        """Return the module: preprocessing, weights and pooling.

        Raises:
            MissingExtra: a library that it needs is not installed.
            WeightsError: its weights cannot be found; says which file and how to supply it.
        """


encoders = Registry(Encoder, group="contrastive.encoders")
