"""A dual model as a plain folder of transformers: a ``CLIPModel``, ``SiglipModel`` or their kin."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.encoders import HFDualImage, HFDualText
from contrastive.encoders.huggingface import quiet_huggingface
from contrastive.errors import SpecError
from contrastive.exporters.plain import logit_bias
from contrastive.exporters.targets import quoted
from contrastive.exporters.tokenizers import plain_tokenizer
from contrastive.heads import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel

HALVES = {"image": HFDualImage, "text": HFDualText}
SCALES = ("logit_scale", "logit_bias")
"""Parameters of a dual model that are the loss's here."""


def check(model: ContrastiveModel, towers: Sequence[str]) -> None:
    """Insist on two halves of one class of transformers, and heads that are none.

    Raises:
        SpecError: one is something else, or the class has parts that no half has.
    """
    require("transformers", extra="transformers")
    if {*towers} != {*HALVES}:
        named = f"{towers[0]} alone" if len(towers) == 1 else ", ".join(towers)
        msg = f"towers: {named}: a dual model of transformers has an image and a text tower"
        raise SpecError(msg)
    check_halves(model)
    for modality in HALVES:
        head = model.tower(modality).spec.head
        if not isinstance(head, Identity):
            name = head.registry.name_of(type(head))
            msg = f"towers.{modality}: a dual model of transformers has no place for the {name}"
            raise SpecError(f"{msg} head, which comes after its projection")


def check_halves(model: ContrastiveModel) -> None:
    """Insist on the two halves of one class of transformers, whatever their heads are.

    Raises:
        SpecError: one is something else, or the class has parts that no half has.
    """
    for modality, kind in HALVES.items():
        encoder = model.tower(modality).spec.encoder
        if not isinstance(encoder, kind):
            name = encoder.registry.name_of(type(encoder))
            only = kind.registry.name_of(kind)
            msg = f"towers.{modality}: a dual model of transformers has no place for {name}, only"
            raise SpecError(f"{msg} for {only}")
    image, text = (_half(model, modality) for modality in HALVES)
    if type(image) is not type(text):
        msg = (
            f"towers: the halves are of {type(image).__name__} and {type(text).__name__}, of which "
            "transformers makes no one model"
        )
        raise SpecError(msg)
    with torch.device("meta"):
        whole = type(image)(_config(model))
    wanted = whole.state_dict()
    given = image.state_dict() | text.state_dict()
    for name, tensor in wanted.items():
        if name in given and given[name].shape != tensor.shape:
            msg = (
                f"towers: the halves are of two models that do not fit each other ({name} is "
                f"{[*given[name].shape]}, not {[*tensor.shape]}), of which transformers makes no "
                "one model"
            )
            raise SpecError(msg)
    lacking = [x for x in wanted if x not in given and x not in SCALES and not _is_unused(x)]
    if SCALES[0] not in wanted or lacking:
        what = f"has {lacking[0]}, which neither tower has" if lacking else "has no logit scale"
        msg = f"towers: a {type(image).__name__} of transformers {what}"
        raise SpecError(msg)


@quiet_huggingface()
def write(model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
    """Write model, image processor and tokenizer, as their authors do."""
    del towers
    image, text = (model.tower(modality).encoder for modality in HALVES)
    halves = [_half(model, modality) for modality in HALVES]
    whole = type(halves[0])(_config(model)).eval()
    state: dict[str, Any] = halves[0].state_dict() | halves[1].state_dict()
    for name, tensor in whole.state_dict().items():
        if name not in state:  # the loss's, or of a pooler that nobody uses
            state[name] = torch.zeros_like(tensor)
    for name, value in zip(SCALES, (model.loss.log_scale.item(), logit_bias(model)), strict=True):
        if name in state and value is not None:
            state[name] = torch.full_like(state[name], value)
    whole.load_state_dict(state)
    preprocess: Any = image.preprocess
    processor = deepcopy(preprocess.processor)
    processor.do_convert_rgb = preprocess.mode == "RGB"
    whole.save_pretrained(folder)
    processor.save_pretrained(folder)
    plain_tokenizer(text.preprocess).save_pretrained(folder)
    return _notes(model, type(whole).__name__, has_bias=SCALES[1] in state)


def usage(folder: Path, towers: Sequence[str]) -> str:
    """Return how the folder is loaded."""
    del towers
    return (
        "from transformers import AutoModel, AutoProcessor\n"
        f"model = AutoModel.from_pretrained({quoted(folder)})\n"
        f"processor = AutoProcessor.from_pretrained({quoted(folder)})"
    )


def _half(model: ContrastiveModel, modality: str) -> Any:
    encoder: Any = model.tower(modality).encoder
    return encoder.model


def _config(model: ContrastiveModel) -> Any:
    """Return the config of both halves, which may be of two models."""
    image, text = (_half(model, modality).config for modality in HALVES)
    config = deepcopy(image)
    config.text_config = deepcopy(text.text_config)
    return config


def _is_unused(name: str) -> bool:
    """Whether a weight is of a pooler, which a half leaves out where no embedding needs it."""
    return "pooler." in name


def _notes(model: ContrastiveModel, kind: str, *, has_bias: bool) -> list[str]:
    """Return what of the loss the class does not say."""
    bias = logit_bias(model)
    if has_bias and bias is None:
        return [
            f"the model was trained for a softmax over classes; pipelines take a sigmoid of a "
            f"{kind}'s logits: take their softmax instead"
        ]
    if bias is not None and not has_bias:
        return [
            f"a {kind} has no place for the loss's bias of {bias:.3g}, so export.json has "
            "it: probabilities are sigmoid(logits + bias)"
        ]
    return []
