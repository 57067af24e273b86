"""A model as plain weights: fp32, on the CPU, LoRA's matrices merged into those beside them."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.module import LossModule

if TYPE_CHECKING:
    from torch import nn

    from contrastive.model.model import ContrastiveModel


def on_cpu(model: ContrastiveModel) -> ContrastiveModel:
    """Return a model in eval mode, fp32 and on the CPU; itself if it is all that."""
    tensors = [*model.parameters(), *model.buffers()]
    is_plain = all(
        x.device.type == "cpu" and (x.dtype == torch.float32 or not x.is_floating_point())
        for x in tensors
    )
    return model if is_plain and not model.training else deepcopy(model).cpu().float().eval()


def plain_model(model: ContrastiveModel) -> ContrastiveModel:
    """Return a model without LoRA's layers, which are merged; itself if it has none."""
    if not any(True for _ in _lora_layers(model)):
        return model
    model = deepcopy(model)
    for parent, name, layer in [*_lora_layers(model)]:
        layer.merge()
        setattr(parent, name, layer.get_base_layer())
    return model


def _lora_layers(model: nn.Module) -> Any:
    """Yield peft's layers, each with the module that holds it and its name there."""
    if "peft" not in sys.modules:  # then none can be in the model
        return
    kind = sys.modules["peft"].tuners.tuners_utils.BaseTunerLayer
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, kind):
                yield parent, name, child


def logit_bias(model: ContrastiveModel) -> float | None:
    """Return what is added to the scaled cosines, of the loss or of the one that it wraps."""
    losses = [each for each in model.loss.modules() if isinstance(each, LossModule)]
    biases = [getattr(loss, "bias", None) for loss in losses]
    return next((float(bias.item()) for bias in biases if bias is not None), None)
