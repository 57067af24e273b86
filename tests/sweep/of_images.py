"""Types of models of transformers that see images: alone, or as a part of a model of texts, too."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import transformers as t
from PIL import Image
from transformers.models.auto import image_processing_auto, modeling_auto

from contrastive.encoders import HFImage
from tests import duals
from tests.sweep.judge import Candidate
from tests.sweep.tiny_models import IMAGE, PEERS, PROCESSORS, SIDE, config_of, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASKS = "IMAGE IMAGE_CLASSIFICATION MASKED_IMAGE_MODELING OBJECT_DETECTION DEPTH_ESTIMATION"
TASKS += " SEMANTIC_SEGMENTATION INSTANCE_SEGMENTATION UNIVERSAL_SEGMENTATION MASK_GENERATION"
TASKS += " IMAGE_TO_IMAGE"
OTHERS = ("radio", "pixtral", "maskformer-swin", "sam2_hiera_det_model", "sam3_vit_model", "vjepa2")
OTHERS += ("sam3_tracker_video",)
"""Types for no task of images."""
HIDDEN = ("last_hidden_state", "encoder_last_hidden_state", "feature_maps")
PARTS = ("vision_model", "image_model", "vision_encoder")
CHANNELS_LAST = ("sam2", "sam2_video", "sam2_vision_model", "sam2_hiera_det_model")
CHANNELS_LAST += ("edgetam", "edgetam_video", "edgetam_vision_model")
"""Types whose map of an image is ``[B, H, W, F]``."""


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return a candidate for each type of AutoModel that sees images alone, and each dual model."""
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in TASKS.split()]
    types = {name for table in tables for name in table} | {*OTHERS}
    types |= {name for name in modeling_auto.MODEL_MAPPING_NAMES if "vision" in name.split("_")}
    types &= {*modeling_auto.MODEL_MAPPING_NAMES}
    alone = {
        f"hf-image {name}": partial(image, name)
        for name in sorted(types)
        if "text_config" not in getattr(t.CONFIG_MAPPING[name], "sub_configs", {})
    }
    families = duals.FAMILIES | duals.OTHERS
    return alone | {f"hf-image {name} (dual)": partial(dual, name) for name in families}


def image(model_type: str, folder: Path) -> Candidate:
    """Make an image model with the processor of its type, its hidden states averaged.

    It is small if the type can be; else it has the numbers of its type. If transformers itself can
    make nothing of an image, or not make the model, ours is to say so.
    """
    small, own = folder / "small", folder / "own"
    try:
        return _tried(_image(model_type, small, IMAGE, SIDE))
    except Exception as error:
        if "required positional argument" in str(error):  # whatever its size
            return _untaken(model_type, folder / "untaken", error)
        try:
            return _tried(_image(model_type, own, {}, None))
        except Exception as error:
            return _untaken(model_type, folder / "untaken", error)


def _tried(candidate: Candidate) -> Candidate:
    with torch.no_grad():
        candidate.theirs(Image.new("RGB", (90, 70)))
    return candidate


def _image(model_type: str, folder: Path, numbers: dict[str, Any], side: int | None) -> Candidate:
    model = save(config_of(model_type, numbers), folder)
    if model_type != "timm_wrapper":  # whose config tells of images, too
        _processor(model_type, side).save_pretrained(folder)
    vars(model.config).update(PEERS.get(model_type, {}))
    return Candidate(HFImage(name=str(folder)), _theirs(model, model_type, folder))


def _untaken(model_type: str, folder: Path, error: Exception) -> Candidate:
    """Return a candidate of which the library itself makes nothing, for a reason."""
    config_of(model_type, IMAGE).save_pretrained(folder)
    kind = _kind(model_type)
    with suppress(TypeError):  # of one that needs something
        kind().save_pretrained(folder)

    def theirs(_: Any) -> torch.Tensor:
        raise error

    return Candidate(HFImage(name=str(folder), pretrained=False), theirs)


def dual(family: str, folder: Path) -> Candidate:
    """Make a dual model, of which an image model is a part."""
    (duals.FAMILIES | duals.OTHERS)[family](folder / "model")
    model = t.AutoModel.from_pretrained(folder / "model").eval()
    spec = HFImage(name=str(folder / "model"))
    return Candidate(spec, _theirs(model, family, folder / "model"))


def _theirs(model: Any, model_type: str, folder: Path) -> Callable[[Any], torch.Tensor]:
    """Return what averages the hidden states of a model, or its part for images."""
    processor = t.AutoImageProcessor.from_pretrained(folder)
    part = next((getattr(model, name) for name in PARTS if hasattr(model, name)), model)
    takes = {"pixel_values", *signature(part.forward).parameters}

    def theirs(sample: Any) -> torch.Tensor:
        inputs = processor(images=sample, return_tensors="pt")
        out = part(**{name: inputs[name] for name in inputs if name in takes})
        hidden = next(out[name] for name in HIDDEN if name in out)
        if isinstance(hidden, tuple | list):
            hidden = hidden[-1]
        if model_type in CHANNELS_LAST:
            hidden = hidden.movedim(-1, 1)
        places = hidden.flatten(2).mT if hidden.ndim == 4 else hidden
        if "pixel_attention_mask" in takes & {*inputs}:
            places = places[:, inputs["pixel_attention_mask"][0].bool()]
        return places.mean(1)

    return theirs


def _processor(model_type: str, side: int | None) -> Any:
    """Return the processor of a type; what it makes has a side, if one is given."""
    kind, fields = _kind(model_type), PROCESSORS.get(model_type, {})
    if side is None:
        return kind(**fields)
    own = kind(**fields)
    square = {"height": side, "width": side}
    for name in {"size", "crop_size", "pad_size"} - {*fields}:
        numbers = {key: n for key, n in dict(getattr(own, name, None) or {}).items() if n}
        if numbers or name == "size":
            fields = fields | {name: dict.fromkeys(numbers, side) or square}
    if {*fields["size"]} == {"shortest_edge", "longest_edge"}:
        fields["size"]["longest_edge"] = 2 * side
    return kind(**fields)


def _kind(model_type: str) -> Any:
    """Return the class of a type's processor: of a part, the class of the whole."""
    names = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
    whole = max((name for name in names if model_type.startswith(name)), key=len, default="vit")
    kinds: Any = image_processing_auto.IMAGE_PROCESSOR_MAPPING[t.CONFIG_MAPPING[whole]]
    several = [*kinds.values()] if isinstance(kinds, dict) else [*kinds]
    return next(kind for kind in several[::-1] if kind)
