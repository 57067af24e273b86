"""Encoders: the interface, the registry, and what comes built in.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contrastive.config.base import Config, PathField
from contrastive.config.bounds import Entries, Layers, Probability, Side, Tokens, Width
from contrastive.config.other_names import ENCODERS
from contrastive.config.registry import Registry

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule


def _stands_before(prompt: str) -> str:
    if "{}" in prompt:
        msg = "a prompt stands before each text and has no {}; leave it out"
        raise ValueError(msg)
    return prompt


Prompt = Annotated[str, AfterValidator(_stands_before)]
Augment = Literal["none", "crop-flip", "simclr"]


class Encoder(Config):
    """Turns raw samples of one modality into one feature vector each.

    Example:
        >>> class Mean(Encoder):
        ...     modality = "image"
        ...     width: int = 3
        ...
        ...     def build(self):
        ...         raise NotImplementedError  # an EncoderModule
        >>> Mean(width=4).width
        4
    """

    kind: ClassVar[str] = "encoder"
    modality: ClassVar[str]
    """What it encodes: ``image``, ``text``, ...; the key of its tower."""
    FEATURES_VERSION: ClassVar[int] = 1
    """Of a built-in encoder: raised with every change of our code that changes its features, so
    that those in the cache are not used. Of other packages' encoders the code itself counts."""

    @abstractmethod
    def build(self) -> EncoderModule:
        """Return the module: preprocessing, weights and pooling.

        Raises:
            MissingExtra: a library that it needs is not installed.
            SpecError: the fields do not fit the model that they name.
            WeightsError: its weights cannot be found; says which file and how to supply it.
        """


encoders = Registry(
    Encoder,
    group="contrastive.encoders",
    plugin_hints=dict.fromkeys(("open-clip-image", "open-clip-text"), "contrastive-openclip"),
    other_names=ENCODERS,
)
"""Encoders by the name that a spec gives as ``type``.

Example:
    >>> encoders["cbow"]().modality
    'text'
"""


@encoders.register("timm")
class Timm(Encoder):
    """An image model of timm with its own transform; features are its pooled output.

    Example:
        >>> Timm(name="resnet50").name
        'resnet50'
    """

    modality: ClassVar[str] = "image"

    name: str = Field(examples=["resnet18.a1_in1k"])
    """Model and tag, such as resnet18.a1_in1k; or hf-hub:OWNER/NAME, or local-dir:FOLDER."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""
    weights: PathField | None = None
    """A local safetensors file of trained weights, taken instead of the published ones; a
    classifier in it is left out."""
    augment: Augment = "none"
    """Data augmentation in training, which disables the feature cache: crop-flip, crops and
    horizontal flips; simclr, small crops, flips, colours and blur, for two views of an image."""

    @model_validator(mode="after")
    def _weights_are_wanted(self) -> Self:
        if self.weights and not self.pretrained:
            msg = "weights are given, but pretrained is false"
            raise ValueError(msg)
        return self

    def build(self) -> EncoderModule:
        """Return the model without its classifier."""
        from contrastive.encoders.timm import build_timm

        return build_timm(self)


@encoders.register("hf-image")
class HFImage(Encoder):
    """An image model of transformers, or the image half of a dual one, with its own processor."""

    modality: ClassVar[str] = "image"

    name: str = Field(examples=["facebook/dinov2-small"])
    """Repository on the Hugging Face Hub, or a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; only a commit stays the same."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """Mean over all places, which every model has; the first token; or the model's own pooler
    (right for CLIP, SigLIP, DINOv2 and ConvNeXt)."""

    def build(self) -> EncoderModule:
        """Return the model, its hidden states pooled."""
        from contrastive.encoders.hf_image import HFImageModule

        return HFImageModule(self)


@encoders.register("hf-text")
class HFText(Encoder):
    """A text model of transformers, or the text half of a dual one, with its own tokenizer.

    Example:
        >>> HFText(name="distilbert-base-uncased").pooling
        'mean'
    """

    modality: ClassVar[str] = "text"

    name: str = Field(examples=["distilbert/distilroberta-base"])
    """Repository on the Hugging Face Hub, or a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; only a commit stays the same."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""
    pooling: Literal["mean", "cls", "pooler", "last"] = "mean"
    """Mean over the tokens, which every model has; the first token; the model's own pooler
    (right for CLIP); or the last token (right for decoders such as GPT). Never padding."""
    max_length: Tokens | None = None
    """Tokens of a text that are read; by default as many as the model takes, at most 512."""
    prompt: Prompt = ""
    """Put before each text, such as "query: " for the models of E5."""

    def build(self) -> EncoderModule:
        """Return the model, its hidden states pooled."""
        from contrastive.encoders.hf_text import HFTextModule

        return HFTextModule(self)


@encoders.register("hf-dual-image")
class HFDualImage(Encoder):
    """The image encoder of a dual encoder of transformers (CLIP, SigLIP, ...) with its projection.

    Features are the model's own embeddings, so its head is ``identity``; ``hf-image`` gives what
    comes before the projection.
    """

    modality: ClassVar[str] = "image"

    name: str = Field(examples=["openai/clip-vit-base-patch32"])
    """Repository on the Hugging Face Hub, or a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; only a commit stays the same."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""

    def build(self) -> EncoderModule:
        """Return the half with its image processor."""
        from contrastive.encoders.hf_dual import HFDualImageModule

        return HFDualImageModule(self)


@encoders.register("hf-dual-text")
class HFDualText(Encoder):
    """The text encoder of a dual encoder of transformers (CLIP, SigLIP, ...) with its projection.

    Features are the model's own embeddings, so its head is ``identity``; texts are padded and cut
    off as the model was trained with.
    """

    modality: ClassVar[str] = "text"

    name: str = Field(examples=["openai/clip-vit-base-patch32"])
    """Repository on the Hugging Face Hub, or a local folder."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; only a commit stays the same."""
    pretrained: bool = True
    """Load trained weights (safetensors only) rather than draw random ones."""

    def build(self) -> EncoderModule:
        """Return the half with its tokenizer."""
        from contrastive.encoders.hf_dual import HFDualTextModule

        return HFDualTextModule(self)


@encoders.register("sentence-transformers")
class SentenceTransformers(Encoder):
    """A text model of sentence-transformers; features are its embeddings, as it gives them."""

    modality: ClassVar[str] = "text"

    name: str = Field(examples=["all-MiniLM-L6-v2"])
    """Repository on the Hugging Face Hub (without an owner: of sentence-transformers), or a local
    folder."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; only a commit stays the same."""
    max_length: Tokens | None = None
    """Tokens of a text that are read; by default what the model was saved with, else 512."""
    prompt: Prompt | None = None
    """Put before each text, such as "query: "; by default the model's own default prompt."""
    prompt_name: str | None = None
    """A prompt of the model's config, in place of ``prompt``."""
    task: Literal["query", "document"] | None = None
    """Encode as ``encode_query`` or ``encode_document`` does: by its prompt and its route."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.prompt is not None and self.prompt_name is not None:
            msg = "prompt and prompt_name are given; give one of them"
            raise ValueError(msg)
        return self

    def build(self) -> EncoderModule:
        """Return the model with its pooling."""
        from contrastive.encoders.sentence_transformers import SentenceTransformersModule

        return SentenceTransformersModule(self)


@encoders.register("resnet")
class ResNet(Encoder):
    """A residual network (He et al. 2015, arXiv:1512.03385) with random weights."""

    modality: ClassVar[str] = "image"

    block: Literal["basic", "bottleneck"] = "basic"
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1."""
    layers: tuple[Layers, Layers, Layers, Layers] = (2, 2, 2, 2)
    """Blocks in each stage; (2, 2, 2, 2) is ResNet-18, bottleneck (3, 4, 6, 3) is ResNet-50."""
    width: Width = 64
    """Channels of the first stage; each stage doubles them."""
    image_size: Side = 224
    """Side of the square that images are resized and cropped to, in pixels."""
    augment: Augment = "none"
    """Data augmentation in training: crop-flip, crops and horizontal flips; simclr, small crops,
    flips, colours and blur, for two views of an image."""

    def build(self) -> EncoderModule:
        """Return the network without a classifier."""
        from contrastive.encoders.resnet import build_resnet

        return build_resnet(self)


@encoders.register("vit")
class ViT(Encoder):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) with random weights."""

    modality: ClassVar[str] = "image"

    image_size: Side = 224
    """Side of the square that images are resized and cropped to, in pixels."""
    patch_size: Side = 16
    """Side of a patch, in pixels."""
    width: Width = 384
    """Hidden size: dimension of each token, and so of the features."""
    depth: Layers = 12
    """Blocks."""
    heads: Width = 6
    """Attention heads of each block."""
    augment: Augment = "none"
    """Data augmentation in training: crop-flip, crops and horizontal flips; simclr, small crops,
    flips, colours and blur, for two views of an image."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        _check_divides(self.heads, self.width, "heads", "width")
        _check_divides(self.patch_size, self.image_size, "patch_size", "image_size")
        return self

    def build(self) -> EncoderModule:
        """Return the transformer, its patches averaged."""
        from contrastive.encoders.vit import build_vit

        return build_vit(self)


@encoders.register("text-transformer")
class TextTransformer(Encoder):
    """A pre-norm transformer over UTF-8 bytes with random weights; it needs no vocabulary."""

    modality: ClassVar[str] = "text"

    width: Width = 256
    """Hidden size: dimension of each token, and so of the features."""
    depth: Layers = 6
    """Blocks."""
    heads: Width = 4
    """Attention heads of each block."""
    max_length: Tokens = 256
    """Bytes of a text that are read."""
    dropout: Probability = 0.1
    """Dropout probability."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        _check_divides(self.heads, self.width, "heads", "width")
        return self

    def build(self) -> EncoderModule:
        """Return the transformer, its tokens averaged."""
        from contrastive.encoders.text_transformer import TextTransformerModule

        return TextTransformerModule(self)


@encoders.register("cbow")
class CBOW(Encoder):
    """The mean of learned word vectors, with random weights: the baseline that costs nothing."""

    modality: ClassVar[str] = "text"

    width: Width = 256
    """Of each word vector, and so of the features."""
    buckets: Annotated[Entries, Field(gt=0)] = 65536
    """Word vectors; each word is hashed to one of them."""
    max_length: Tokens = 64
    """Words of a text that are read."""

    def build(self) -> EncoderModule:
        """Return the table of word vectors."""
        from contrastive.encoders.cbow import CBOWModule

        return CBOWModule(self)


def _check_divides(part: int, whole: int, part_name: str, whole_name: str) -> None:
    if whole % part:
        msg = f"{whole_name} {whole} is not a multiple of {part_name} {part}"
        raise ValueError(msg)
