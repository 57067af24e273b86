"""The smallest model of each module of timm, or a named one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import save_model

from contrastive.encoders import Timm
from tests.sweep.judge import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return the smallest model of each module."""
    return {f"timm {module}": partial(smallest, module) for module in timm.list_modules()}


def smallest(module: str, folder: Path) -> Candidate:
    """Make the model of a module that has the fewest parameters."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
    return made(min(names, key=parameters), folder)


def made(name: str, folder: Path) -> Candidate:
    """Make a model of timm with random weights, saved whole."""
    try:
        whole = timm.create_model(name).eval()
    except NotImplementedError:  # an encoder that never has classes
        whole = timm.create_model(name, num_classes=0).eval()
    save_model(whole, str(folder / "weights.safetensors"))
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(whole))

    def theirs(image: Any) -> torch.Tensor:
        pixels = transform(image)[None]
        if not hasattr(whole, "forward_head"):
            features = whole(pixels)  # of places
            return features.flatten(2).mean(2) if features.ndim == 4 else features.mean(1)
        features = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        return features.mean(1) if features.ndim == 3 else features

    return Candidate(Timm(name=name, weights=folder / "weights.safetensors"), theirs)
