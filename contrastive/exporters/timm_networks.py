"""Networks of timm as folders of transformers, which wraps them: weights, sizes and transform.

Our own ``vit`` and ``resnet`` are timm's classes, so that they are architectures of timm with
other numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from contrastive.config.extras import require
from contrastive.encoders import ResNet, Timm, ViT
from contrastive.encoders.timm import LOCAL
from contrastive.encoders.weights import config_in
from contrastive.errors import reason_of
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule

HALF = [0.5, 0.5, 0.5]  # as in encoders/image_transform.py


def timm_problem(spec: ResNet | Timm | ViT, encoder: EncoderModule) -> str:
    """Return why transformers cannot hold a network of timm; nothing if it can."""
    require("timm", extra="timm")
    module: Any = encoder
    if isinstance(spec, Timm) and _data_config(module.net)["input_size"][0] != 3:
        return "images are made grey before its transform, which has no place for that"
    with torch.no_grad(), eval_mode(encoder):
        found = module.net(**_renamed(encoder.preprocess([Image.new("RGB", (64, 64))])))
    if found.ndim != 2:
        return "its network gives features of places, of which only our code takes the mean"
    config = _config(spec, module.net, encoder.out_dim)
    try:
        with torch.device("meta"):  # as transformers does
            other = _create(config)
    except Exception as error:  # timm builds it otherwise, and says so in many ways
        name, timm = config["architecture"], require("timm", extra="timm")
        return (
            f"timm {timm.__version__} does not build {name} for transformers ({reason_of(error)}); "
            "pip install --upgrade timm (1.0.21 builds vision transformers)"
        )
    wanted = {name: tensor.shape for name, tensor in module.net.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in other.state_dict().items()}:
        return f"timm builds another {config['architecture']} than the one that was trained"
    return ""


def write_timm(spec: ResNet | Timm | ViT, encoder: EncoderModule, folder: Path) -> None:
    """Write a network with its transform as a folder of transformers."""
    transformers = require("transformers", extra="transformers")
    net: Any = getattr(encoder, "net")  # noqa: B009 - an ImageModule has it
    config = transformers.TimmWrapperConfig(**_config(spec, net, encoder.out_dim))
    model = transformers.TimmWrapperModel(config)
    model.timm_model.load_state_dict(net.state_dict())
    model.save_pretrained(folder)


def _renamed(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"x": inputs["image"]}  # what every network of timm calls it


def _create(config: dict[str, Any]) -> Any:
    timm = require("timm", extra="timm")
    arguments = config["model_args"]
    return timm.create_model(config["architecture"], pretrained=False, num_classes=0, **arguments)


def _config(spec: ResNet | Timm | ViT, net: Any, width: int) -> dict[str, Any]:
    """Return what transformers keeps of a network of timm."""
    if isinstance(spec, ViT):
        name, arguments = "vit_base_patch16_224", _vit_arguments(spec)
    elif isinstance(spec, ResNet):
        name = "resnet18" if spec.block == "basic" else "resnet50"
        channels = [spec.width * 2**stage for stage in range(4)]
        arguments = {"layers": [*spec.layers], "channels": channels}
    else:
        name, arguments = _timm_arguments(spec, net)
    if isinstance(spec, Timm):
        data = _data_config(net)
    else:
        size = [3, spec.image_size, spec.image_size]
        data = {"input_size": size, "interpolation": "bicubic", "mean": HALF, "std": HALF}
        data |= {"crop_pct": 1.0, "crop_mode": "center"}
    return {
        "architecture": name,
        "model_args": arguments,
        "pretrained_cfg": data,
        "num_features": width,  # which sentence-transformers asks for
    }


def _vit_arguments(spec: ViT) -> dict[str, Any]:
    return {
        "img_size": spec.image_size,
        "patch_size": spec.patch_size,
        "embed_dim": spec.width,
        "depth": spec.depth,
        "num_heads": spec.heads,
        "class_token": False,
        "global_pool": "avg",
    }


def _timm_arguments(spec: Timm, net: Any) -> tuple[str, dict[str, Any]]:
    """Return the architecture of a network, with its tag, and what it was built with besides."""
    cfg = net.pretrained_cfg
    name, colon, _ = spec.name.partition(":")
    if not colon:
        timm = require("timm", extra="timm")
        return timm.models.get_deprecated_models().get(name) or name, {}
    folder = Path(spec.name.removeprefix(LOCAL)).expanduser()
    told: dict[str, Any] = (config_in(folder) if spec.name.startswith(LOCAL) else None) or {}
    arguments: dict[str, Any] = dict(told.get("model_args") or {})
    arguments.pop("num_classes", None)  # there is no classifier
    if cfg.get("fixed_input_size"):
        arguments.setdefault("img_size", [*cfg["input_size"][1:]])
    if cfg.get("global_pool"):
        arguments.setdefault("global_pool", cfg["global_pool"])
    return cfg["architecture"], arguments


def _data_config(net: Any) -> dict[str, Any]:
    """Return what decides timm's transform, as JSON has it."""
    timm = require("timm", extra="timm")
    found = timm.data.resolve_model_data_config(net)
    return {key: [*x] if isinstance(x, tuple) else x for key, x in found.items()}
