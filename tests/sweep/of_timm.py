"""The smallest model of each module of timm, or a named one."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import save_model
from timm.models import _registry as registry
from timm.models import save_for_hf

from contrastive.encoders import Timm
from tests.sweep.judge import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALLER: dict[str, dict[str, int]] = {
    "deepseek_vit": {"depth": 1},
    "gemma4_vit": {"depth": 1},
    "mobilenetv5": {},
    "qwen3_vit": {"depth": 1},
}
"""Modules whose models, of language models, take minutes for an image of the usual size."""
LARGE = ("base", "large", "huge", "giant", "gigantic", "enormous", "so400m", "so150m")


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return the smallest model of each module."""
    return {f"timm {module}": partial(smallest, module) for module in timm.list_modules()}


def smallest(module: str, folder: Path) -> Candidate:
    """Make the model of a module that has the fewest parameters."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
    others = [name for name in names if not any(word in name for word in LARGE)]
    name = min(others or names, key=parameters)
    if module in SMALLER:
        return smaller(name, folder, **SMALLER[module])
    few_layers(name)
    return made(name, folder)


def few_layers(name: str) -> None:
    """Give a model two layers in this process, if one number says how many it has."""
    model = registry._model_entrypoints[name]
    with suppress(AssertionError, TypeError, ValueError), torch.device("meta"):
        model(depth=2)
        registry._model_entrypoints[name] = partial(model, depth=2)


def smaller(name: str, folder: Path, **arguments: int) -> Candidate:
    """Make a model of timm for small images, maybe of one layer, saved as a folder."""
    size = {"input_size": (3, 336, 336)}
    whole = timm.create_model(name, pretrained_cfg_overlay=size, **arguments).eval()
    save_for_hf(whole, folder, model_args=arguments, safe_serialization=True)
    return _candidate(Timm(name=f"local-dir:{folder}"), whole)


def made(name: str, folder: Path) -> Candidate:
    """Make a model of timm with random weights, saved whole."""
    try:
        whole = timm.create_model(name).eval()
    except NotImplementedError:  # an encoder that never has classes
        whole = timm.create_model(name, num_classes=0).eval()
    save_model(whole, str(folder / "weights.safetensors"))
    return _candidate(Timm(name=name, weights=folder / "weights.safetensors"), whole)


def _candidate(spec: Timm, whole: Any) -> Candidate:
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(whole))

    def theirs(image: Any) -> torch.Tensor:
        pixels = transform(image)[None]
        if not hasattr(whole, "forward_head"):
            features = whole(pixels)  # of places
            return features.flatten(2).mean(2) if features.ndim == 4 else features.mean(1)
        features = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        return features.mean(1) if features.ndim == 3 else features

    return Candidate(spec, theirs)
