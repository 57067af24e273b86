"""What the encoders of transformers share: one half of a model, loaded whole or not at all."""

from __future__ import annotations

import logging
import math
import re
import sys
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.encoders.pooling import POOLINGS
from contrastive.encoders.weights import begin_with, find_weights, loading_weights, weight_files
from contrastive.errors import SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from contrastive.encoders import HFImage, HFText

PARTS = {
    "image": ("vision_model", "image_model", "vision_tower", "visual", "vision_encoder"),
    "text": ("text_model", "language_model"),
}
"""What a model of several modalities calls its part for one."""
NUMBER = re.compile(r"\.\d+\.")
"""Of a layer, in the name of a weight."""
PADDED = ("siglip", "siglip2")
"""Models, by their ``model_type``, that take the last of a fixed number of places for the text's
embedding, and see the padding before it."""
EAGER = ("aimv2",)
"""Models, by their ``model_type``, that look ahead in a text unless a mask is written out."""


def load_half(spec: HFImage | HFText, who: str) -> tuple[Any, Any, Path]:
    """Return a model of transformers in fp32, its config and its folder.

    Of a dual model such as CLIP it is the half of the spec's modality, of an encoder-decoder over
    text the encoder. A pooler that is not asked for is left out: many checkpoints lack its weights,
    and random ones would make the model another one each time.

    Raises:
        WeightsError: a file is missing or damaged, or lacks some of the weights of that half.
    """
    require("transformers", extra="transformers")  # before anything is downloaded for it
    folder = find_weights(who, spec.name, spec.revision)
    whole = load_config(folder, who)
    whole_model, config, missing = _load_part(whole, folder, who, spec)
    tensors: dict[str, Tensor] = whole_model.state_dict(keep_vars=True)
    if spec.pooling != "pooler":
        drop_pooler(whole_model)
    two_parts = getattr(config, "is_encoder_decoder", False) or _is_encoder_alone(config)
    model = whole_model.get_encoder() if two_parts and spec.modality == "text" else whole_model
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    computed = never_saved(whole_model)
    missing = [
        name
        for name in missing
        if name not in tensors or (id(tensors[name]) in kept and not name.endswith(computed))
    ]
    check_no_missing_weights(missing, folder, who)
    return model, config, folder


def _is_encoder_alone(config: Any) -> bool:
    """Whether a checkpoint holds the encoder of a T5 or its kin without the decoder."""
    auto = require("transformers", extra="transformers").AutoModelForTextEncoding
    if type(config) not in auto._model_mapping:
        return False
    name = auto._model_mapping[type(config)].__name__
    written_by_it = name in (config.architectures or ()) or not config.is_encoder_decoder
    return name.endswith("EncoderModel") and written_by_it


def never_saved(model: Any) -> tuple[str, ...]:
    """Return the weights that a model computes, such as Marian's sinusoids: no file has them."""
    classes = vars(sys.modules[type(model).__module__]).values()
    lists = (getattr(cls, "_keys_to_ignore_on_save", None) or () for cls in classes)
    return tuple({name.removeprefix("model.") for names in lists for name in names})


def _load_part(
    whole: Any, folder: Path, who: str, spec: HFImage | HFText
) -> tuple[Any, Any, list[str]]:
    """Return a folder's model, or its part for the spec's modality, its config and what it lacks.

    A part is loaded alone where transformers can do that; else the whole, and the rest forgotten.

    Raises:
        SpecError: the part is not for this encoder.
        WeightsError: a file is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    pretrained = spec.pretrained
    names = ("vision_config", "image_config") if spec.modality == "image" else ("text_config",)
    config = next((getattr(whole, name) for name in names if hasattr(whole, name)), whole)
    config.use_cache = False  # nothing is generated, and layers may run twice
    if config is whole:
        model, missing = load_weights(whole, folder, who, pretrained=pretrained)
        return model, config, missing
    if spec.modality == "text" and whole.model_type in PADDED:
        msg = f"{who}: a {whole.model_type!r} embeds texts at their last place; use hf-dual-text"
        raise SpecError(msg)
    if type(config) in transformers.MODEL_MAPPING:
        model, missing = load_weights(config, folder, who, pretrained=pretrained)
        if all(key.startswith("pooler.") for key in missing):
            return model, config, missing
    model, missing = load_weights(whole, folder, who, pretrained=pretrained)
    for name in PARTS[spec.modality]:
        if isinstance(part := getattr(model, name, None), nn.Module):
            prefix = f"{name}."
            own = [key.removeprefix(prefix) for key in missing if key.startswith(prefix)]
            return part, config, own
    return model, config, missing


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
        for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
            if part is not None:
                part.return_dict = True  # else outputs have no names
        # OWNER/NAME would fetch a kernel from the Hub and run it
        config._attn_implementation = "eager" if config.model_type in EAGER else None
    return config


def load_image_processor(folder: Path, who: str) -> Any:
    """Return the image processor of a model's folder.

    Raises:
        WeightsError: it is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((folder / name).is_file() for name in names):
        msg = (
            f"{who}: {folder} has no {names[0]}; save the image processor that the model was "
            f"trained with: transformers.ViTImageProcessor(...).save_pretrained({str(folder)!r})"
        )
        raise WeightsError(msg)
    with quiet_huggingface(), loading_weights(who, "preprocessor_config.json", folder):
        return transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def load_weights(config: Any, folder: Path, who: str, *, pretrained: bool) -> tuple[Any, list[str]]:
    """Return the model of a config in fp32, and the names of the weights that its folder lacks.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    transformers = require("transformers", extra="transformers")
    auto = transformers.AutoModel
    if _is_encoder_alone(config):
        auto = transformers.AutoModelForTextEncoding
    if pretrained:
        weight_files(folder, who)
    with quiet_huggingface(), loading_weights(who, "the model", folder):
        if not pretrained:
            model = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
            return whole_at_once(model), []
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # its error does not say which
            output_loading_info=True,
        )
        check_loaded(model, info, folder, who)
        return whole_at_once(model), sorted(info["missing_keys"])


def check_loaded(model: Any, info: dict[str, Any], folder: Path, who: str) -> None:
    """Insist that a model's config fits its weights; tell of layers that are not used.

    Args:
        model: what was loaded.
        info: what ``from_pretrained`` tells of it.
        folder: that of the model.
        who: the encoder, for messages.

    Raises:
        WeightsError: weights are of other shapes than the config says; names the first.
    """
    mismatched: list[Any] = sorted(info.get("mismatched_keys") or [])
    if mismatched:
        name, found, wanted = mismatched[0]
        msg = (
            f"{who}: config.json does not fit the weights in {folder}: {name} is {[*found]} in the "
            f"file, and {[*wanted]} by the config ({len(mismatched)} such in all); put back the "
            "config that they were saved with"
        )
        raise WeightsError(msg)
    used = {NUMBER.sub(".", name) for name in model.state_dict()}
    spare: list[str] = sorted(info.get("unexpected_keys") or [])
    if beyond := [key for key in spare if NUMBER.search(key) and NUMBER.sub(".", key) in used]:
        say(
            f"{who}: {len(beyond)} weights in {folder} are not used, the first is {beyond[0]}: "
            "config.json says fewer layers than the file has"
        )


def whole_at_once(model: Any) -> Any:
    """Return a model whose feed-forward layers take all tokens at once, for the same numbers.

    Where its config says to chunk them, a text of another length than a multiple would raise.
    """
    for part in model.modules():
        if hasattr(part, "chunk_size_feed_forward"):
            part.chunk_size_feed_forward = 0
    return model


def check_no_missing_weights(missing: list[str], place: Path, who: str) -> None:
    """Insist that no weights are missing.

    Raises:
        WeightsError: some are; names the first.

    Example:
        >>> check_no_missing_weights([], Path("folder"), "encoder")  # silent: none is missing
    """
    if not missing:
        return
    msg = f"{who}: the weights in {place} lack {missing[0]} ({len(missing)} in all)"
    names = _names_in(place)
    if any(name.endswith(f".{missing[0]}") for name in names) and (prefix := _shared_prefix(names)):
        msg = f"{who}: {place}: {begin_with(prefix)}"
    raise WeightsError(msg)


def _names_in(folder: Path) -> list[str]:
    """Return the names of all tensors in a model's folder."""
    names: list[str] = []
    for file in sorted(folder.glob("model*.safetensors")):
        with cast("Any", safe_open(file, "pt")) as tensors:
            names += tensors.keys()
    return names


def _shared_prefix(names: list[str]) -> str:
    """Return the parts, each with its dot, that all names begin with.

    Example:
        >>> _shared_prefix(["module.visual.a", "module.visit.a"])
        'module.'
    """
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda several: len({*several}) == 1, parts)
    return "".join(f"{several[0]}." for several in shared)


def drop_pooler(model: Any) -> None:
    """Take out the weights of a pooler whose output nobody uses."""
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
        model.pooler = nn.Identity()  # not None, which some models call


def pool(
    output: Any, mask_BL: Tensor | None, pooling: str, who: str, pixels_BCHW: Tensor | None = None
) -> Tensor:
    """Return features ``[B, F]`` of a model's output.

    Hidden states are ``[B, L, F]``, or a map of the image's places, ``[B, F, H, W]`` or
    ``[B, H, W, F]``; without a mask every place counts.

    Raises:
        SpecError: the model has no such thing to take.
    """
    if pooling == "pooler":
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            msg = f"{who}: the model has no pooler; set pooling to mean or cls"
            raise SpecError(msg)
        return pooled.flatten(1)
    hidden = _hidden_states(output, who)
    if hidden.ndim == 4:
        if pooling == "cls":
            msg = f"{who}: a map of the image has no class token; set pooling to mean"
            raise SpecError(msg)
        if pixels_BCHW is None or not _is_channels_last(hidden, pixels_BCHW):
            hidden = hidden.movedim(1, -1)
        hidden = hidden.flatten(1, 2)
    mask = hidden.new_ones(hidden.shape[:2]) if mask_BL is None else mask_BL
    return POOLINGS[pooling](hidden, mask)


def _hidden_states(output: Any, who: str) -> Tensor:
    """Return the last hidden states of an encoder: some models say it in other words.

    Raises:
        SpecError: the output has none.
    """
    for name in ("last_hidden_state", "encoder_last_hidden_state"):
        if isinstance(hidden := getattr(output, name, None), Tensor):
            return hidden
    if maps := getattr(output, "feature_maps", None):  # of a backbone, from fine to coarse
        return maps[-1]
    msg = f"{who}: the model gives no hidden states, but {', '.join(output)}; choose another model"
    raise SpecError(msg)


def _is_channels_last(map_BXYZ: Tensor, pixels_BCHW: Tensor) -> bool:
    """Whether the first two axes of a map, and not the last two, have the image's proportions."""
    x, y, z = map_BXYZ.shape[1:]
    ratio = pixels_BCHW.shape[-2] / pixels_BCHW.shape[-1]
    first, last = (abs(math.log(a / b / ratio)) for a, b in ((x, y), (y, z)))
    return first < last


@contextmanager
def quiet_huggingface() -> Generator[None]:
    """Silence transformers, whose report calls the other half of a dual model unexpected.

    Example:
        >>> with quiet_huggingface():
        ...     pass  # a from_pretrained of transformers
    """
    library = require("transformers.utils.logging", extra="transformers")
    verbosity, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    sentences = logging.getLogger("sentence_transformers")
    level = sentences.level
    sentences.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sentences.setLevel(level)
        library.set_verbosity(verbosity)
        if bar:
            library.enable_progress_bar()
