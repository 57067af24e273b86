"""Halves of the dual models of transformers, projection included: CLIP, SigLIP and their kin.

A dual model is one that has ``get_image_features`` and ``get_text_features``. A half is the whole
model less what its method does not use, and embeds by that method, so that its embeddings are the
model's whatever its architecture does between the pixels and the projection.

Shapes: B samples, D the model's shared width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from contrastive.config.extras import require
from contrastive.data.images import open_image
from contrastive.data.sample_lists import sample_list
from contrastive.encoders.device_normalisation import BYTES, processor_bytes_first
from contrastive.encoders.hf_text import (
    LONGEST,
    load_tokenizer,
    longest_taken,
    positions,
    told_length,
)
from contrastive.encoders.huggingface import (
    PADDED,
    check_no_missing_weights,
    drop_pooler,
    dual_class,
    load_config,
    load_image_processor,
    load_weights,
)
from contrastive.encoders.image_encoder import ImageEncoder
from contrastive.encoders.image_transform import check_one_size, mode_for
from contrastive.encoders.text import tokenizing
from contrastive.encoders.token_encoder import TokenEncoder, some_words
from contrastive.encoders.trial import measure_out_dim
from contrastive.encoders.vocabulary import vocabulary_size
from contrastive.encoders.weights import find_weights, folder_config
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from contrastive.data.images import ImageSource
    from contrastive.encoders import HFDualImage, HFDualText
    from contrastive.encoders.device_normalisation import PixelNormalisation

FIRST = ("flava",)
"""Models, by their ``model_type``, that give an embedding for each token; the first is the one."""


class HFDualImageModule(ImageEncoder):
    """What the image processor gives, to embeddings ``[B, D]`` before normalisation."""

    def __init__(self, spec: HFDualImage) -> None:
        """Load the half and its image processor."""
        super().__init__()
        self.who = f"hf-dual-image {spec.name!r}"
        self.model, folder = load_dual_half(spec, self.who)
        self.folder_config = folder_config(folder)
        processor = load_image_processor(folder, self.who)
        mode = mode_for(getattr(self.model.config, "vision_config", None), processor, self.who)
        steps = " ".join(processor.to_json_string().split())
        self.preprocess = ProcessImages(processor, steps, mode)
        self.reproducible = spec.pretrained
        sample = Image.new("RGB", (64, 64))
        self.out_dim = measure_out_dim(self, sample, self.who)
        keep_used(self, sample)

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, D]`` of what the image processor gives."""
        return embedding(self.model.get_image_features(**inputs), self.model, self.who)


class HFDualTextModule(TokenEncoder):
    """Tokens ``[B, L]`` to embeddings ``[B, D]`` before normalisation."""

    def __init__(self, spec: HFDualText) -> None:
        """Load the half and its tokenizer."""
        super().__init__()
        self.who = f"hf-dual-text {spec.name!r}"
        self.model, folder = load_dual_half(spec, self.who)
        self.folder_config = folder_config(folder)
        tokenizer = load_tokenizer(folder, self.who)
        config = self.model.config
        length = min(positions(config.text_config), told_length(tokenizer), LONGEST)
        # the tokenizer of a SigLIP says that the model is to see no mask
        named = signature(self.model.get_text_features).parameters
        self.takes = frozenset(named) & frozenset(tokenizer.model_input_names)
        masked = "attention_mask" in self.takes and config.model_type not in PADDED
        self.preprocess = tokenizing(
            tokenizer, length, who=self.who, padding="longest" if masked else "max_length"
        )
        known = vocabulary_size(self, tokenizer, self.who)
        taken = longest_taken(self, length, config.text_config)
        self.preprocess = replace(self.preprocess, max_length=taken, vocabulary=known)
        self.reproducible = spec.pretrained
        self.out_dim = measure_out_dim(self, "a picture", self.who)
        keep_used(self, "a picture")

    def words(self) -> list[str]:
        """Return some words that the model knows."""
        preprocess: Any = self.preprocess
        return some_words(preprocess.tokenizer.get_vocab())

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, D]`` of what the tokenizer gives."""
        taken = {name: tensor for name, tensor in inputs.items() if name in self.takes}
        return embedding(self.model.get_text_features(**taken), self.model, self.who)


@dataclass(frozen=True)
class ProcessImages:
    """An image processor as ``preprocess``, one image at a time, so that none depends on others.

    Unlike ``ImageTransform`` it gives all that the processor gives: patches come with their places.
    """

    processor: Any = field(repr=False)
    steps: str
    """Every step and parameter of it, for the ``repr``."""
    mode: str = field(default="RGB", repr=False)
    changed: Mapping[str, bool] = field(default_factory=dict[str, bool], repr=False, hash=False)
    """Which of its steps are done or not, unlike in its config."""

    def bytes_first(self) -> tuple[ProcessImages, PixelNormalisation] | None:
        """Return one that does not rescale and normalise, and what does, where these come last."""
        normalise = processor_bytes_first(self.processor)
        return None if normalise is None else (replace(self, changed=BYTES), normalise)

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"pixel_values": [B, ...], ...}``.

        Raises:
            BadSample: an image cannot be read.
            SizesDifferError: the processor gives images of different sizes.
        """
        images = [open_image(sample) for sample in sample_list(samples, "image", least=1)]
        each = [
            self.processor(images=image.convert(self.mode), return_tensors="pt", **self.changed)
            for image in images
        ]
        check_one_size(next(iter(one.values())) for one in each)
        tensors = [name for name, value in each[0].items() if isinstance(value, Tensor)]
        return {name: torch.cat([one[name] for one in each]) for name in tensors}


def load_dual_half(spec: HFDualImage | HFDualText, who: str) -> tuple[Any, Path]:
    """Return a dual model of transformers in fp32 without the loss's parameters, and its folder.

    Raises:
        SpecError: the model is not a dual one.
        WeightsError: a file is missing or damaged, or lacks some of the weights.
    """
    require("transformers", extra="transformers")  # before anything is downloaded for it
    folder = find_weights(who, spec.name, spec.revision)
    config = load_dual_config(folder, who)
    model, missing = load_weights(config, folder, who, pretrained=spec.pretrained)
    check_no_missing_weights(missing, folder, who)
    for name, _ in [*model.named_parameters(recurse=False)]:  # the scale and the bias
        delattr(model, name)
    return model, folder


def keep_used(module: HFDualImageModule | HFDualTextModule, sample: object) -> None:
    """Take out of a dual model what no gradient of its half's embeddings would reach.

    That is the other half, and a pooler where another place is projected.
    """
    module.eval()
    with torch.enable_grad():
        used = _leaves(module(**module.preprocess([sample])))
    for name, part in [*module.model.named_children()]:
        if used.isdisjoint(part.parameters()):
            delattr(module.model, name)
        elif (pooler := getattr(part, "pooler", None)) and used.isdisjoint(pooler.parameters()):
            drop_pooler(part)
    module.train()


def _leaves(features: Tensor) -> set[Any]:
    """Return the parameters that features were made of."""
    leaves: set[Any] = set()
    seen: set[Any] = set()
    ahead: list[Any] = [features.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves.add(getattr(node, "variable", None))
            ahead += [parent for parent, _ in node.next_functions]
    return leaves


def load_dual_config(folder: Path, who: str) -> Any:
    """Return the config of a dual model's folder.

    Raises:
        SpecError: the model is not a dual one.
        WeightsError: the config is missing or damaged.
    """
    config = load_config(folder, who)
    if dual_class(config) is None:
        msg = (
            f"{who}: a {config.model_type!r} of transformers is not a dual model of images and "
            "texts (get_image_features, get_text_features); hf-image and hf-text take single "
            "models and parts of others"
        )
        raise SpecError(msg)
    return config


def embedding(output: Any, model: Any, who: str) -> Tensor:
    """Return the embeddings in what ``get_image_features`` or ``get_text_features`` gives.

    Some versions of transformers give the tensor itself.

    Raises:
        SpecError: there is not one for each sample.
    """
    rows = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if rows is not None and rows.ndim == 3 and model.config.model_type in FIRST:
        rows = rows[:, 0]
    if rows is None or rows.ndim != 2:
        msg = f"{who}: a {model.config.model_type!r} gives no one embedding for each sample"
        raise SpecError(msg)
    return rows
