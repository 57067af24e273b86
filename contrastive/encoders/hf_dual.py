"""Halves of the dual models of transformers, projection included: CLIP, SigLIP and their kin.

A half is the whole model less the other half, and embeds by the model's own method, so that its
embeddings are the model's whatever its architecture does between the pixels and the projection.

Shapes: B samples, D the model's shared width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from contrastive.config.extras import require
from contrastive.data.images import open_image
from contrastive.data.raw_samples import sample_list
from contrastive.encoders.hf_text import LONGEST, load_tokenizer, longest_taken, positions
from contrastive.encoders.huggingface import (
    check_no_missing_weights,
    load_config,
    load_image_processor,
    load_weights,
)
from contrastive.encoders.module import EncoderModule
from contrastive.encoders.promises import measure_out_dim
from contrastive.encoders.text import Padding, tokenizing
from contrastive.encoders.weights import find_weights
from contrastive.errors import SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.data.images import ImageSource
    from contrastive.encoders import HFDualImage, HFDualText

# SigLIP takes the last place for the text's embedding and sees the padding before it
FAMILIES: dict[str, Padding] = {
    "clip": "longest",
    "metaclip_2": "longest",
    "chinese_clip": "longest",
    "altclip": "longest",
    "siglip": "max_length",
    "siglip2": "max_length",
}
"""Models by their ``model_type``, and how their texts are padded."""
PARTS = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}
SCALARS = ("logit_scale", "logit_bias")  # the loss has them


class HFDualImageModule(EncoderModule):
    """What the image processor gives, to embeddings ``[B, D]`` before normalisation."""

    modality = "image"

    def __init__(self, spec: HFDualImage) -> None:
        """Load the half and its image processor."""
        super().__init__()
        self.who = f"hf-dual-image {spec.name!r}"
        self.model, folder = load_dual_half(spec, self.who)
        processor = load_image_processor(folder, self.who)
        self.preprocess = ProcessImages(processor, " ".join(processor.to_json_string().split()))
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, Image.new("RGB", (64, 64)), self.who)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, D]`` of what the image processor gives."""
        return embedding(self.model.get_image_features(**inputs))


class HFDualTextModule(EncoderModule):
    """Tokens ``[B, L]`` to embeddings ``[B, D]`` before normalisation."""

    modality = "text"

    def __init__(self, spec: HFDualText) -> None:
        """Load the half and its tokenizer."""
        super().__init__()
        self.who = f"hf-dual-text {spec.name!r}"
        self.model, folder = load_dual_half(spec, self.who)
        tokenizer = load_tokenizer(folder, self.who)
        config = self.model.config
        length = min(positions(config.text_config), int(tokenizer.model_max_length), LONGEST)
        self.preprocess = tokenizing(
            tokenizer, length, who=self.who, padding=FAMILIES[config.model_type]
        )
        # the tokenizer of a SigLIP says that the model is to see no mask
        self.takes = frozenset[str](tokenizer.model_input_names)
        taken = longest_taken(self, length, config.text_config)
        self.preprocess = replace(self.preprocess, max_length=taken)
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, "a picture", self.who)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, D]`` of what the tokenizer gives."""
        taken = {name: tensor for name, tensor in inputs.items() if name in self.takes}
        return embedding(self.model.get_text_features(**taken))


@dataclass(frozen=True)
class ProcessImages:
    """An image processor as ``preprocess``, one image at a time, so that none depends on others.

    Unlike ``ImageTransform`` it gives all that the processor gives: patches come with their places.
    """

    processor: Any = field(repr=False)
    steps: str
    """Every step and parameter of it, for the ``repr``."""

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"pixel_values": [B, ...], ...}``.

        Raises:
            BadSample: an image cannot be read.
        """
        images = [open_image(sample) for sample in sample_list(samples, "image", least=1)]
        each = [self.processor(images=image, return_tensors="pt") for image in images]
        return {name: torch.cat([one[name] for one in each]) for name in each[0]}


def load_dual_half(spec: HFDualImage | HFDualText, who: str) -> tuple[Any, Path]:
    """Return a dual model of transformers in fp32 without its other half, and its folder.

    The other half is in memory only while the files are read.

    Raises:
        SpecError: the model is not of a family of dual models that is known here.
        WeightsError: a file is missing or damaged, or lacks some of the weights.
    """
    require("transformers", extra="transformers")  # before anything is downloaded for it
    folder = find_weights(who, spec.name, spec.revision)
    config = load_dual_config(folder, who)
    if spec.pretrained:
        weight_files(folder, who)
    model, missing = load_weights(config, folder, who, pretrained=spec.pretrained)
    check_no_missing_weights(missing, folder, who)
    other = "text" if spec.modality == "image" else "image"
    for part in (*PARTS[other], *SCALARS):
        if hasattr(model, part):
            delattr(model, part)
    return model, folder


def load_dual_config(folder: Path, who: str) -> Any:
    """Return the config of a dual model's folder.

    Raises:
        SpecError: the model is not of a family of dual models that is known here.
        WeightsError: the config is missing or damaged.
    """
    config = load_config(folder, who)
    if config.model_type not in FAMILIES:
        msg = (
            f"{who}: a {config.model_type!r} is not among the dual models that can be loaded whole "
            f"({', '.join(FAMILIES)}); hf-image and hf-text load halves and single models"
        )
        raise SpecError(msg)
    return config


def weight_files(folder: Path, who: str) -> list[Path]:
    """Return the safetensors files of a model's folder.

    Raises:
        WeightsError: there are none; says how to get them.
    """
    if files := sorted(folder.glob("model*.safetensors")):
        return files
    msg = (
        f"{who}: {folder} has no file model.safetensors, and pickles (pytorch_model.bin) are never "
        "loaded; take a revision that has it, or convert a model that you trust: "
        "transformers.AutoModel.from_pretrained(NAME).save_pretrained(FOLDER)"
    )
    raise WeightsError(msg)


def embedding(output: Any) -> Tensor:
    """Return the embeddings in what ``get_image_features`` or ``get_text_features`` gives.

    Some versions of transformers give the tensor itself.
    """
    return output if isinstance(output, Tensor) else output.pooler_output
