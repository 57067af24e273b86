"""Pretrained encoders whose weights are pip packages: small, and no network at run time.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from contrastive.interface import Encoder

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule

__all__ = ["EfficientNetLite0", "MiniLM"]


class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0 trained on ImageNet-1k, 224 px, 1280 features (Tan and Le, 2019)."""

    modality: ClassVar[str] = "image"

    def build(self) -> EncoderModule:
        """Return the network with its weights, without the classifier.

        Raises:
            WeightsError: the package with the weights is missing or damaged.
        """
        from contrastive_pocket.efficientnet import build_efficientnet

        return build_efficientnet()


class MiniLM(Encoder):
    """all-MiniLM-L6-v2, an encoder of English sentences, 384 features (Wang et al., 2020)."""

    modality: ClassVar[str] = "text"

    max_length: Annotated[int, Field(ge=3, le=512)] = 64
    """Tokens that are read of a text, the two at its ends included; the rest is cut off."""

    def build(self) -> EncoderModule:
        """Return the transformer with its weights, under the mean over tokens.

        Raises:
            WeightsError: the package with the weights is missing or damaged.
        """
        from contrastive_pocket.minilm import build_minilm

        return build_minilm(self.max_length)
