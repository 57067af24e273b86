"""Halves of the models of open_clip, projection included, with their own preprocessing.

Shapes: B samples, D the model's shared width, L tokens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from contrastive.interface import (
    EncoderModule,
    ImageTransform,
    WeightsError,
    as_text,
    find_weights,
    loading_weights,
    measure_out_dim,
    quiet_huggingface,
    require,
    sample_list,
    tokenizer_hash,
)
from contrastive_openclip.checkpoints import (
    LOCAL,
    VOCABULARY,
    build_whole,
    model_config,
    place_of,
    without_log,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive_openclip import OpenCLIPImage, OpenCLIPText

# of a tokenizer, beside its vocabulary
OPTIONS = ("context_length", "clean_fn", "reduction_fn", "strip_sep_token", "tokenizer_mode")

OF_A_CONFIG = {"clean", "language", "reduction_mask", "strip_sep_token"}
"""Options of a tokenizer that a config may set; others reach a loader that can run code."""


class OpenCLIPImageModule(EncoderModule):
    """Pixels ``[B, 3, H, W]`` to embeddings ``[B, D]`` before normalisation."""

    modality = "image"

    def __init__(self, spec: OpenCLIPImage) -> None:
        """Load the half and its transform."""
        super().__init__()
        who = f"open-clip-image {spec.name!r}"
        self.model = build_whole(spec, who)
        self.folder_config = json.dumps(model_config(place_of(spec, who), who), sort_keys=True)
        keep_only(self.model, "visual")
        transforms = require("open_clip.transform", package="contrastive-openclip")
        config = self.model.visual.preprocess_cfg
        transform = transforms.image_transform_v2(
            transforms.PreprocessCfg(**config), is_train=False
        )
        self.preprocess = ImageTransform(transform, f"open_clip {config}")
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, Image.new("RGB", (64, 64)), who)

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.model.encode_image(image)


class OpenCLIPTextModule(EncoderModule):
    """Tokens ``[B, L]`` to embeddings ``[B, D]`` before normalisation."""

    modality = "text"

    def __init__(self, spec: OpenCLIPText) -> None:
        """Load the half and its tokenizer."""
        super().__init__()
        who = f"open-clip-text {spec.name!r}"
        self.model = build_whole(spec, who)
        self.folder_config = json.dumps(model_config(place_of(spec, who), who), sort_keys=True)
        leave_out(self.model, "visual", "text_decoder", "logit_scale", "logit_bias")
        tokenizer = load_tokenizer(spec, who)
        self.preprocess = TokenizeWhole(tokenizer, _digest(tokenizer))
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, "a picture", who)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.model.encode_text(tokens)


@dataclass(frozen=True)
class TokenizeWhole:
    """A tokenizer of open_clip, which pads every text to the length that the model takes."""

    tokenizer: Any = field(repr=False)
    digest: str
    """SHA-256 of what the tokenizer does, for the ``repr``."""

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"tokens": [B, L]}``.

        Raises:
            BadSample: a sample is not a text.
        """
        several = sample_list(samples, "text", least=1)
        return {"tokens": self.tokenizer([as_text(sample) for sample in several])}


def load_tokenizer(spec: OpenCLIPText, who: str) -> Any:
    """Return the tokenizer of a model.

    Raises:
        WeightsError: its vocabulary is missing or damaged, or its config sets other options than
            those of a tokenizer.
    """
    open_clip = require("open_clip", package="contrastive-openclip")
    place = place_of(spec, who)
    texts = model_config(place, who)["text_cfg"]
    if unknown := sorted({*(texts.get("tokenizer_kwargs") or ())} - OF_A_CONFIG):
        msg = (
            f"{who}: the config's tokenizer_kwargs set {unknown[0]!r}, which a config must not; "
            f"it may set {', '.join(sorted(OF_A_CONFIG))}"
        )
        raise WeightsError(msg)
    if (vocabulary := texts.get("hf_tokenizer_name")) and ":" not in place:
        # otherwise the loader looks up each file on the Hub, for minutes
        find_weights(who, vocabulary, files=VOCABULARY, otherwise=LOCAL)
    with quiet_huggingface(), without_log(), loading_weights(who, "the tokenizer"):
        # of open_clip's two kinds of tokenizer, that of transformers alone takes the option
        code = {"trust_remote_code": False} if vocabulary else {}
        return open_clip.get_tokenizer(place, **code)


def keep_only(model: Any, name: str) -> None:
    """Take every part but one out of a model."""
    parts = {path.partition(".")[0] for path, _ in model.named_parameters()}
    parts |= {path.partition(".")[0] for path, _ in model.named_buffers()}
    leave_out(model, *(parts - {name}))


def leave_out(model: Any, *names: str) -> None:
    """Take parts out of a model."""
    for name in names:
        if hasattr(model, name):
            delattr(model, name)


def _digest(tokenizer: Any) -> str:
    """Hash everything that a tokenizer does to a text."""
    inner = getattr(tokenizer, "tokenizer", None)
    known = tokenizer_hash(inner) if inner else sorted(tokenizer.encoder.items())
    options = {name: getattr(tokenizer, name, None) for name in OPTIONS}
    plain = {name: getattr(option, "__qualname__", option) for name, option in options.items()}
    text = json.dumps([type(tokenizer).__name__, known, plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
