"""Architectures of open_clip, its own towers made shallow."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import open_clip
import torch
from open_clip import factory
from safetensors.torch import save_model

from contrastive.pretrained import pretrained_spec
from tests.sweep.judge import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGEST = 60_000_000  # parameters of a tower of timm, which stays as it is


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return the two halves of each architecture."""
    return {
        f"open_clip {name} {modality}": partial(half, name, modality)
        for name in open_clip.list_models()
        for modality in ("image", "text")
    }


def half(name: str, modality: str, folder: Path) -> Candidate:
    """Make a half of an architecture, and save the whole as a file."""
    config = shallow(name)
    if "hf_model_name" in config["text_cfg"] or "hf_tokenizer_name" in config["text_cfg"]:
        raise NotImplementedError("its texts are of a repository of the Hub")
    factory._MODEL_CONFIGS[name] = config  # of this process, which is forked
    model, _, transform = cast("Any", open_clip.create_model_and_transforms(name))
    model.eval()
    file = folder / "open_clip_model.safetensors"
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    save_model(model, str(file))
    tokens = open_clip.get_tokenizer(name)

    def theirs(sample: Any) -> torch.Tensor:
        if modality == "image":
            return model.encode_image(transform(sample)[None])
        return model.encode_text(tokens([sample]))

    spec = pretrained_spec(f"open_clip:{name}@{file}")
    return Candidate(spec.towers[modality].encoder, theirs)


def shallow(name: str) -> dict[str, Any]:
    """Return the config of an architecture with one or two layers in a tower of open_clip's own."""
    config: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))
    config["text_cfg"]["layers"] = 1
    layers = config["vision_cfg"].get("layers")
    if layers is not None:
        config["vision_cfg"]["layers"] = [1] * 4 if isinstance(layers, list) else 1
    if kind := config["vision_cfg"].get("timm_model_name"):
        import timm

        with torch.device("meta"):
            size = sum(p.numel() for p in timm.create_model(kind, num_classes=0).parameters())
        if size > LARGEST:
            raise NotImplementedError(f"{kind} has {size} parameters")
    return config
