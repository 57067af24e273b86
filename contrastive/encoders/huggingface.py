"""What the encoders of transformers share: one half of a model, loaded whole or not at all."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from contrastive.config.extras import require
from contrastive.encoders.pooling import POOLINGS
from contrastive.encoders.weights import find_weights, loading_weights
from contrastive.errors import ContrastiveError, SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from contrastive.encoders import HFImage, HFText
    from contrastive.encoders.module import EncoderModule

PARTS = {
    "image": ("vision_model", "image_model", "vision_tower", "visual", "vision_encoder"),
    "text": ("text_model", "language_model"),
}
"""What a model of several modalities calls its part for one."""
PADDED = ("siglip", "siglip2")
"""Models, by their ``model_type``, that take the last of a fixed number of places for the text's
embedding, and see the padding before it."""
EAGER = ("aimv2",)
"""Models, by their ``model_type``, that look ahead in a text unless a mask is written out."""


def load_half(spec: HFImage | HFText, who: str) -> tuple[Any, Path]:
    """Return a model of transformers in fp32, and its folder.

    Of a dual model such as CLIP it is the half of the spec's modality, of an encoder-decoder the
    encoder. A pooler that is not asked for is left out: many checkpoints lack its weights, and
    random ones would make the model another one each time.

    Raises:
        WeightsError: a file is missing or damaged, or lacks some of the weights.
    """
    require("transformers", extra="transformers")  # before anything is downloaded for it
    folder = find_weights(who, spec.name, spec.revision)
    whole = load_config(folder, who)
    model, missing = _load_part(whole, folder, who, spec)
    if spec.pooling != "pooler":
        missing = [key for key in missing if not key.startswith("pooler.")]
        drop_pooler(model)
    check_no_missing_weights(missing, folder, who)
    if spec.modality == "text" and getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return model, folder


def _load_part(whole: Any, folder: Path, who: str, spec: HFImage | HFText) -> tuple[Any, list[str]]:
    """Return the model of a folder, or its part for the spec's modality, and what it lacks.

    A part is loaded alone where transformers can do that; else the whole, and the rest forgotten.

    Raises:
        SpecError: the part is not for this encoder.
        WeightsError: a file is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    pretrained = spec.pretrained
    names = ("vision_config", "image_config") if spec.modality == "image" else ("text_config",)
    config = next((getattr(whole, name) for name in names if hasattr(whole, name)), whole)
    if config is whole:
        return load_weights(whole, folder, who, pretrained=pretrained)
    if spec.modality == "text" and whole.model_type in PADDED:
        msg = f"{who}: a {whole.model_type!r} embeds texts at their last place; use hf-dual-text"
        raise SpecError(msg)
    if type(config) in transformers.MODEL_MAPPING:
        model, missing = load_weights(config, folder, who, pretrained=pretrained)
        if all(key.startswith("pooler.") for key in missing):
            return model, missing
    model, missing = load_weights(whole, folder, who, pretrained=pretrained)
    for name in PARTS[spec.modality]:
        if isinstance(part := getattr(model, name, None), nn.Module):
            prefix = f"{name}."
            return part, [key.removeprefix(prefix) for key in missing if key.startswith(prefix)]
    return model, missing


def dual_class(config: Any) -> Any:
    """Return the class of a dual model's config, or None if it embeds not both images and texts."""
    transformers = require("transformers", extra="transformers")
    found = transformers.MODEL_MAPPING.get(type(config), None)
    methods = ("get_image_features", "get_text_features")
    return found if all(hasattr(found, method) for method in methods) else None


def load_config(folder: Path, who: str) -> Any:
    """Return the config of a model's folder, without what it says of the code to run.

    Raises:
        WeightsError: it is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    with quiet_huggingface(), loading_weights(who, "config.json", folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # OWNER/NAME would fetch a kernel from the Hub and run it
        config._attn_implementation = "eager" if config.model_type in EAGER else None
    return config


def load_image_processor(folder: Path, who: str) -> Any:
    """Return the image processor of a model's folder.

    Raises:
        WeightsError: it is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    with quiet_huggingface(), loading_weights(who, "preprocessor_config.json", folder):
        return transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def load_weights(config: Any, folder: Path, who: str, *, pretrained: bool) -> tuple[Any, list[str]]:
    """Return the model of a config in fp32, and the names of the weights that its folder lacks.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    with quiet_huggingface(), loading_weights(who, "the model", folder):
        if not pretrained:
            model = transformers.AutoModel.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
            return model, []
        model, info = transformers.AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        return model, sorted(info["missing_keys"])


def check_no_missing_weights(missing: list[str], place: Path, who: str) -> None:
    """Insist that no weights are missing.

    Raises:
        WeightsError: some are; names the first.

    Example:
        >>> check_no_missing_weights([], Path("folder"), "encoder")  # silent: none is missing
    """
    if missing:
        msg = f"{who}: the weights in {place} lack {missing[0]} ({len(missing)} in all)"
        raise WeightsError(msg)


def drop_pooler(model: Any) -> None:
    """Take out the weights of a pooler whose output nobody uses."""
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.pooler = nn.Identity()  # not None, which some models call


def pool(output: Any, mask_BL: Tensor | None, pooling: str, who: str) -> Tensor:
    """Return features ``[B, F]`` of a model's output.

    Hidden states are ``[B, L, F]``, or ``[B, F, H, W]`` of a convolutional network; without a mask
    every place counts.

    Raises:
        SpecError: the model has no such thing to take.
    """
    if pooling == "pooler":
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            msg = f"{who}: the model has no pooler; set pooling to mean or cls"
            raise SpecError(msg)
        return pooled.flatten(1)
    hidden: Tensor = output.last_hidden_state
    if hidden.ndim == 4:
        if pooling == "cls":
            msg = f"{who}: a convolutional network has no class token; set pooling to mean"
            raise SpecError(msg)
        hidden = hidden.flatten(2).transpose(1, 2)
    mask = hidden.new_ones(hidden.shape[:2]) if mask_BL is None else mask_BL
    return POOLINGS[pooling](hidden, mask)


@torch.no_grad()
def measure_out_dim(module: EncoderModule, sample: object, who: str) -> int:
    """Return F by encoding one sample, which also shows that all parts fit each other.

    Raises:
        SpecError: they do not.

    Example:
        >>> measure_out_dim(encoders["cbow"](width=16).build(), "a red square", "cbow")
        16
    """
    module.eval()  # batch statistics and the generator stay put
    try:
        features: Tensor = module(**module.preprocess([sample]))
    except (ContrastiveError, MemoryError):
        raise
    except Exception as error:  # the model may be of any kind: audio, video, ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        msg = f"{who}: the model does not take what its preprocessing gives: {reason}"
        raise SpecError(msg) from error
    module.train()
    return features.shape[-1]


@contextmanager
def quiet_huggingface() -> Generator[None]:
    """Silence transformers, whose report calls the other half of a dual model unexpected.

    Example:
        >>> with quiet_huggingface():
        ...     pass  # a from_pretrained of transformers
    """
    logging = require("transformers.utils.logging", extra="transformers")
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
