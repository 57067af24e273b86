"""Models of open_clip: their halves as encoders, and the whole of them by name.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from contrastive.interface import Encoder, Pretrained

if TYPE_CHECKING:
    from contrastive.interface import EncoderModule, ModelSpec

__all__ = ["OpenCLIP", "OpenCLIPImage", "OpenCLIPText"]


class Half(Encoder):
    """Where the two halves of a model of open_clip come from. Not an encoder by itself."""

    name: str = Field(examples=["hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
    """Architecture, such as ViT-B-32; or hf-hub:OWNER/NAME, or local-dir:FOLDER."""
    tag: str | None = None
    """Published weights of that architecture, such as laion2b_s34b_b79k."""
    weights: Path | None = None
    """A local safetensors file of the whole model, taken instead of published weights."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""

    @model_validator(mode="after")
    def _weights_are_known(self) -> Self:
        given = [self.tag, self.weights].count(None) < 2
        if ":" in self.name and given:
            msg = f"{self.name} has its own weights; leave tag and weights out"
            raise ValueError(msg)
        if self.tag and self.weights:
            msg = "give tag or weights, not both"
            raise ValueError(msg)
        if self.pretrained and not given and ":" not in self.name:
            msg = f"{self.name} is an architecture; give its tag or weights, or pretrained: false"
            raise ValueError(msg)
        return self


class OpenCLIPImage(Half):
    """The image half of a model of open_clip with its projection and its own transform.

    Features are the model's own embeddings, so its head is ``identity``.
    """

    modality: ClassVar[str] = "image"

    def build(self) -> EncoderModule:
        """Return the half with its transform."""
        from contrastive_openclip.encoders import OpenCLIPImageModule

        return OpenCLIPImageModule(self)


class OpenCLIPText(Half):
    """The text half of a model of open_clip with its projection and its own tokenizer.

    Features are the model's own embeddings, so its head is ``identity``.
    """

    modality: ClassVar[str] = "text"

    def build(self) -> EncoderModule:
        """Return the half with its tokenizer."""
        from contrastive_openclip.encoders import OpenCLIPTextModule

        return OpenCLIPTextModule(self)


class OpenCLIP(Pretrained):
    """A whole model of open_clip: ``load_model("open_clip:ViT-B-32/laion2b_s34b_b79k")``."""

    name: str = Field(examples=["ViT-B-32/laion2b_s34b_b79k"])
    """ARCHITECTURE/TAG, ARCHITECTURE@FILE, hf-hub:OWNER/NAME, or a local folder."""

    def spec(self) -> ModelSpec:
        """Return the spec of the model."""
        from contrastive_openclip.pretrained import spec_of

        return spec_of(self.name)
