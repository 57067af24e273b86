"""Models of transformers as the first modules of a route of sentence-transformers."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from contrastive.config.extras import require
from contrastive.encoders.hf_image import HFImageModule, PadImages
from contrastive.encoders.huggingface import never_saved
from contrastive.encoders.image_encoder import ImageEncoder
from contrastive.encoders.image_transform import ImageTransform
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.exporters.tokenizers import plain_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.encoders.hf_text import HFTextModule
    from contrastive.encoders.module import EncoderModule

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""Ours, and what sentence-transformers calls them."""


def model_problem(encoder: EncoderModule) -> str:
    """Return why sentence-transformers would not embed as a model does; nothing if it does."""
    if problem := padding_problem(encoder):
        return problem
    if isinstance(encoder, HFImageModule):
        if isinstance(encoder.preprocess, PadImages):
            return "its images keep their shapes, which form no batch there"
        if not isinstance(encoder.preprocess, ImageTransform):
            return "its patches come with their places, which its pooling does not take there"
        if encoder.drops_patches:
            return "it shuffles its patches, unless our code says how"
    model: Any = getattr(encoder, "model", None)
    return "" if loaded_class(model) else f"a {type(model).__name__} is not loaded by itself"


def padding_problem(encoder: EncoderModule) -> str:
    """Return why features depend on what else is in a batch; nothing if they do not."""
    if isinstance(encoder, TokenEncoder) and encoder.by_length:
        return "the model heeds padding, which it would see there"
    if isinstance(encoder, ImageEncoder) and encoder.one_by_one:
        return "its features depend on the batch, so that images are to be run one by one"
    return ""


def model_modules(encoder: HFImageModule | HFTextModule, folder: Path) -> list[Any]:
    """Write a model with its preprocessing, and return it as modules that pool as ours does."""
    modules = require(
        "sentence_transformers.sentence_transformer.modules", extra="sentence-transformers"
    )
    modality, pooling = encoder.modality, encoder.pooling
    complete(encoder.model).save_pretrained(folder)
    if modality == "text":
        plain_tokenizer(encoder.preprocess).save_pretrained(folder)
    else:
        image_processor(encoder).save_pretrained(folder)
    output = "pooler_output" if pooling == "pooler" else _hidden_name(encoder)
    is_vector = pooling == "pooler" and _first_output(encoder, output).ndim == 2
    named = "sentence_embedding" if is_vector else "token_embeddings"
    body = modules.Transformer(
        str(folder),
        modality_config={modality: {"method": "forward", "method_output_name": output}},
        module_output_name=named,
    )
    if is_vector:
        return [body]
    return [body, modules.Pooling(encoder.out_dim, POOLINGS.get(pooling, "mean"))]


def image_processor(encoder: Any) -> Any:
    """Return the image processor of an encoder, which takes grey and transparent images, too."""
    given: Any = encoder.preprocess
    process: Any = given.transform if isinstance(given, ImageTransform) else given
    processor = deepcopy(process.processor)
    processor.do_convert_rgb = process.mode == "RGB"
    return processor


def complete(model: Any) -> Any:
    """Return a model with what was taken out of it, as its files have it.

    A pooler that nobody uses is zero; what a model computes when it is made stays.
    """
    whole, inner = loaded_class(model)(_plain_config(model)).eval(), model.state_dict()
    target = whole if type(whole) is type(model) else whole.get_encoder()
    wanted = target.state_dict()
    for name, tensor in wanted.items():
        if name not in inner and not name.endswith(never_saved(model)):
            inner[name] = torch.zeros_like(tensor)
    target.load_state_dict(inner, strict=False)
    return whole


def _plain_config(model: Any) -> Any:
    config = deepcopy(model.config)
    if hasattr(config, "chunk_size_feed_forward"):
        config.chunk_size_feed_forward = 0
    return config


def loaded_class(model: Any) -> Any:
    """Return the class as which transformers loads a model's config; None if that is another."""
    transformers = require("transformers", extra="transformers")
    config = getattr(model, "config", None)
    kind = transformers.MODEL_MAPPING.get(type(config), None)
    if kind is type(model):
        return kind
    encoders = transformers.AutoModelForTextEncoding._model_mapping
    kind = encoders.get(type(config), None)
    if kind is type(model):
        return kind
    if kind is not None and kind.__name__.endswith("EncoderModel"):
        with torch.device("meta"):
            inner = kind(config).get_encoder()
        return kind if type(inner) is type(model) else None
    return None


def _hidden_name(encoder: Any) -> str:
    """Return what a model calls its hidden states."""
    return "last_hidden_state" if encoder.modality == "text" else _image_hidden_name(encoder)


def _image_hidden_name(encoder: Any) -> str:
    output = _output(encoder)
    names = ("last_hidden_state", "encoder_last_hidden_state")
    return next((name for name in names if getattr(output, name, None) is not None), names[0])


def _first_output(encoder: Any, name: str) -> Any:
    return getattr(_output(encoder), name)


@torch.no_grad()
def _output(encoder: Any) -> Any:
    """Return what a model gives for one sample."""
    sample = "a picture" if encoder.modality == "text" else Image.new("RGB", (64, 64))
    inputs = encoder.preprocess([sample])
    if encoder.modality == "image":
        inputs = {"pixel_values": inputs["image"]}
    model: nn.Module = encoder.model
    return model.eval()(**inputs)
