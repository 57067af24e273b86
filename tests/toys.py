"""A small real run: the miniature Flickr30k, a tiny timm network and a bag of words."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from contrastive import RunSpec
from tests.miniature import write_flickr30k


@cache
def network(name: str = "test_resnet") -> Path:
    """Return a file with weights of a tiny timm network, drawn once; the default has BatchNorm."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module: Any = timm.create_model(name, num_classes=0)
    path = Path(mkdtemp()) / f"{name}.safetensors"
    save_file(module.state_dict(), path)
    return path


def tiny_model(loss: str) -> dict[str, Any]:
    """Return a model of images and texts from scratch, the smallest that there is."""
    return {
        "embed_dim": 8,
        "towers": {
            "image": {
                "encoder": {"type": "resnet", "width": 4, "image_size": 8},
                "head": {"type": "linear"},
            },
            "text": {"encoder": {"type": "cbow", "width": 8}, "head": {"type": "linear"}},
        },
        "loss": {"type": loss},
    }


def toy_dict(data: Path, *, images: int = 48, **training: Any) -> dict[str, Any]:
    """Return the spec of a run that takes a second; the data are written if need be."""
    if not data.exists():
        write_flickr30k(data, images=images)
    settings = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "workers": 0}
    return {
        "model": {
            "embed_dim": 32,
            "towers": {
                "image": {
                    "encoder": {"type": "timm", "name": "test_resnet", "weights": str(network())},
                    "head": {"type": "mlp", "dropout": 0.1},
                    "frozen": "encoder",
                },
                "text": {
                    "encoder": {"type": "cbow", "width": 64, "buckets": 512},
                    "head": {"type": "linear"},
                },
            },
            "loss": {"type": "infonce"},
        },
        "data": {"type": "flickr30k", "folder": str(data)},
        "training": settings | training,
    }


def toy_spec(data: Path, **training: Any) -> RunSpec:
    """Return ``toy_dict`` as a spec."""
    return RunSpec.model_validate(toy_dict(data, **training))


def write_noise(folder: Path, count: int = 3) -> list[Path]:
    """Write small images of noise, always the same; return their paths."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return paths
