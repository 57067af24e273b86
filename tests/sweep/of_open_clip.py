"""Architectures of open_clip, shallow and narrow, with vocabularies of a few words."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import open_clip
import timm
import torch
from open_clip import factory
from safetensors.torch import save_model
from timm.models import _registry as registry
from timm.models.vitamin import VitCfg, VitConvCfg

from contrastive.pretrained import pretrained_spec
from tests.sweep.judge import Candidate
from tests.sweep.tiny_models import TEXT, VOCABULARY, config_of, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEADS = {"width": 128, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "vit_base_mci": {"depth": 1},  # behind a stem that has its own width
    "vitamin": {
        **{"depth": 1, "embed_dim": 64, "num_heads": 2},
        "embed_cfg": VitCfg(
            embed_dim=(16, 32, 64),
            depths=(1, 1, 1),
            stem_width=16,
            conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
            head_type="1d",
        ),
    },
    "fastvit_mci3": {"layers": (1,) * 5, "embed_dims": (16, 32, 64, 128, 256)},
    "fastvit_mci4": {"layers": (1,) * 5, "embed_dims": (16, 32, 64, 128, 256)},
    "fastvit": {"layers": (1,) * 4, "embed_dims": (16, 32, 64, 128)},
    "convnext": {"depths": (1,) * 4, "dims": (16, 32, 64, 128)},
    "swin": {"depths": (1, 1, 2, 1), "embed_dim": 32, "num_heads": (1, 2, 4, 8)},
    "vit": {"depth": 1, "embed_dim": 128, "num_heads": 2},
    "eva": {"depth": 1, "embed_dim": 128, "num_heads": 2},
}
"""What is smaller in the towers of timm, by how their names begin; the first one counts."""
BACKBONES = {
    "roberta": "roberta",
    "xlm-roberta": "xlm-roberta",
    "google/mt5": "mt5",
    "facebook/nllb": "m2m_100",
}
"""Types of the text models of transformers, by how their names begin."""


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return the two halves of each architecture."""
    return {
        f"open_clip {name} {modality}": partial(half, name, modality)
        for name in open_clip.list_models()
        for modality in ("image", "text")
    }


def half(name: str, modality: str, folder: Path) -> Candidate:
    """Make a half of an architecture, and save the whole as a file."""
    factory._MODEL_CONFIGS[name] = small(name, folder)  # of this process, which is forked
    model, _, transform = cast(
        "Any", open_clip.create_model_and_transforms(name, pretrained_text=False)
    )
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


def small(name: str, folder: Path) -> dict[str, Any]:
    """Return the config of an architecture, as small as it can be; its texts are of a folder."""
    config: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))
    images, texts = config["vision_cfg"], config["text_cfg"]
    if kind := images.get("timm_model_name"):
        narrow(kind)
        if images["timm_proj"] == "none":
            with torch.device("meta"):
                config["embed_dim"] = timm.create_model(kind, num_classes=0).num_features
    else:
        stages = isinstance(images["layers"], list)
        images |= {"layers": [1] * 4, "width": 16} if stages else {"layers": 1}
        if not stages:
            images["width"] = 2 * images.get("head_width", 64)
    if "multimodal_cfg" in config:
        config["multimodal_cfg"]["layers"] = 1
    if backbone := texts.get("hf_model_name"):
        texts["hf_model_name"] = str(folder / "texts")
        begins = next(begins for begins in BACKBONES if backbone.startswith(begins))
        numbers = TEXT | {"max_position_embeddings": 96}
        config_of(BACKBONES[begins], numbers).save_pretrained(folder / "texts")
    else:
        texts |= HEADS
    if "hf_tokenizer_name" in texts:
        texts["hf_tokenizer_name"] = str(folder / "texts")
        texts["vocab_size"] = len(VOCABULARY)
        tokenizer().save_pretrained(folder / "texts")
    if "eos_id" in texts:
        texts["eos_id"] = VOCABULARY["[SEP]"]
    return config


def narrow(kind: str) -> None:
    """Make an architecture of timm a small one in this process."""
    begins = next(begins for begins in TOWERS if kind.startswith(begins))
    made = registry._model_entrypoints[kind]
    registry._model_entrypoints[kind] = partial(made, **TOWERS[begins])
