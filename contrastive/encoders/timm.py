"""Any image model of timm, with its own transform."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from contrastive.config.extras import require
from contrastive.encoders.image_transform import ImageModule, ImageTransform, augmentation, mode_of
from contrastive.encoders.trial import measure_out_dim
from contrastive.encoders.weights import (
    WEIGHTS,
    config_in,
    find_weights,
    folder_config,
    how_to_convert,
    load_strictly,
    loading_weights,
)
from contrastive.errors import SpecError, WeightsError
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from contrastive.encoders import Timm


LOCAL = "local-dir:"
OTHERWISE = "set weights to its safetensors file, or name to local-dir:FOLDER"


class TimmModule(ImageModule):
    """A network of timm; where it gives features of places rather than of the image, their mean."""

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, F]``."""
        features: Tensor = self.net(image)
        if features.ndim == 4:
            return features.mean((2, 3))  # [B, F, H, W]
        return features.mean(1) if features.ndim == 3 else features


def build_timm(spec: Timm) -> ImageModule:
    """Return the model without its classifier; ``out_dim`` is what timm says of that output.

    Raises:
        SpecError: timm does not know the name, or gives no features of that width.
        WeightsError: the weights are missing, or not of this model.
    """
    timm = require("timm", extra="timm")
    who = f"timm {spec.name!r}"
    name, published = _locate(spec, who)
    with loading_weights(who, "the model"):
        net = timm.create_model(
            name,
            pretrained=published is not None,
            pretrained_cfg_overlay=published,
            num_classes=0,
        )
    if spec.weights and spec.pretrained:
        load_strictly(who, net, Path(spec.weights), leave_out=_whole(name).state_dict().keys())
    with loading_weights(who, "the transform that its config describes"):
        config = timm.data.resolve_model_data_config(net)
        mode = mode_of(config["input_size"][0], who)
        transform = timm.data.create_transform(**config, is_training=False)
    if mode == "L":
        v = require("torchvision.transforms", extra="timm")
        transform = v.Compose([v.Grayscale(), transform])
    module = TimmModule(net, net.head_hidden_size, ImageTransform(transform, f"timm {config}"))
    size, mean, std = config["input_size"][1:], config["mean"], config["std"]
    module.augment = augmentation(spec.augment, size, mean, std, config["interpolation"], mode)
    module.reproducible = spec.pretrained
    if name.startswith(LOCAL):
        module.folder_config = folder_config(Path(name.removeprefix(LOCAL)))
    width = measure_out_dim(module, Image.new("RGB", (64, 64)), who)
    if width != module.out_dim:
        msg = (
            f"{who}: its features are {width} wide, and timm says {module.out_dim}; choose another"
        )
        raise SpecError(msg)
    return module


def _whole(name: str) -> nn.Module:
    """Return an architecture with its classifier; where timm allows, without its weights."""
    timm = require("timm", extra="timm")
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except RuntimeError:  # timm 1.0.20 reads numbers that it has made
        with RngState():
            return timm.create_model(name)


def _locate(spec: Timm, who: str) -> tuple[str, dict[str, Any] | None]:
    """Return the name that timm should build, and where its weights are if timm should load any."""
    timm = require("timm", extra="timm")
    # a name of former releases of timm stands for a model and its tag
    name = timm.models.get_deprecated_models().get(spec.name) or spec.name
    source, colon, place = name.partition(":")
    published = spec.pretrained and spec.weights is None
    if not colon:
        hub_id = _known(name, who, published=published)
        if hub_id is None:
            return name, None
        file = find_weights(who, hub_id, files=[WEIGHTS], otherwise=OTHERWISE) / WEIGHTS
        return name, {"file": str(file), "custom_load": False}
    if source not in ("hf-hub", "local-dir"):
        msg = f"{who}: {source!r} is no source of models; there are hf-hub: and local-dir:"
        raise SpecError(msg)
    repository, _, revision = place.partition("@") if source == "hf-hub" else (place, "", "")
    folder = find_weights(
        who, repository, revision or None, ["config.json", WEIGHTS], otherwise=OTHERWISE
    )
    if published and not (folder / WEIGHTS).is_file():
        pickled = next(iter(sorted(folder.glob("*.bin"))), None)
        remedy = "give a safetensors file as weights"
        if pickled:
            remedy = f"{pickled.name} is a pickle, {how_to_convert(pickled, folder / WEIGHTS)}"
        msg = f"{who}: {folder} has no {WEIGHTS}; {remedy}"
        raise WeightsError(msg)
    _check_config(folder, who)
    if not published:
        return f"{LOCAL}{folder}", None
    # source: or timm would choose among the folder's files, pickles too
    overlay = {"source": "", "file": str(folder / WEIGHTS), "custom_load": False}
    return f"{LOCAL}{folder}", overlay


def _check_config(folder: Path, who: str) -> None:
    """Insist on a folder of timm, whose config names an architecture.

    Raises:
        WeightsError: it is none; a model of transformers has another type here.
    """
    config = config_in(folder)
    if isinstance(config, dict) and "model_type" in config and "architecture" not in config:
        msg = f"{who}: {folder} is of transformers, not of timm; set type to hf-image, name to it"
        raise WeightsError(msg)


def _known(name: str, who: str, *, published: bool) -> str | None:
    """Insist on a name that timm knows; return the repository of its weights if they are wanted."""
    timm = require("timm", extra="timm")
    names: list[str] = [*timm.list_models(), *timm.list_pretrained()]
    if name not in names:
        if Path(name).expanduser().is_dir():
            msg = f"{who}: is a folder; set name to local-dir:{name}"
            raise SpecError(msg)
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        msg = f"{who}: timm has no model of that name; {hint}"
        raise SpecError(msg)
    if not published:
        return None
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        msg = (
            f"{who}: timm has no safetensors for it; set weights to a file, or pretrained to false"
        )
        raise WeightsError(msg)
    return config.hf_hub_id
