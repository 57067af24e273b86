"""LoRA: a frozen linear layer gets a product of two small matrices beside it, which train.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. The layers
are peft's; what trains and what is saved is decided here, as for everything else that is frozen.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from contrastive.config.extras import require
from contrastive.errors import SpecError
from contrastive.nn.name_patterns import matching

if TYPE_CHECKING:
    from contrastive.spec import LoRA

LORA_DROPOUT = "lora_dropout"  # peft's name of the dropout before the matrices
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # a part of the name, in every library
# they read the weights of the linear layers in them without calling these, so that nothing beside a
# layer would count
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def add_lora(encoder: nn.Module, spec: LoRA) -> None:
    """Put LoRA's matrices beside linear layers of an encoder; at first they change nothing.

    Raises:
        SpecError: a pattern matches no linear layer, or no attention layers are known.
        MissingExtra: peft is not installed.
    """
    peft = require("peft", extra="lora")
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=targets(encoder, spec),
    )
    with warnings.catch_warnings():  # peft says that it puts right how GPT-2 lays out its weights
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        peft.inject_adapter_in_model(config, encoder)


def targets(encoder: nn.Module, spec: LoRA) -> list[str]:
    """Return the names of the linear layers that get matrices.

    Raises:
        SpecError: a pattern matches none, or there is none in attention.
    """
    modules: dict[str, nn.Module] = dict(cast("Any", encoder.named_modules()))
    fused = tuple(
        place for name, module in modules.items() for place in _fused_linears(name, module)
    )
    linear = [
        name
        for name, module in modules.items()
        # by its name: GPT-2 has a linear layer of transformers' own
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and not name.startswith(fused)
    ]
    if spec.targets:
        return matching(spec.targets, linear, who="lora.targets", what="linear layer")
    chosen = [name for name in linear if ATTENTION.search(name)]
    if not chosen:
        others = (
            f"name some of its {len(linear)} other linear layers as lora.targets, such as "
            f"{linear[-1]}"
            if linear
            else "it has no others; use unfrozen, or frozen: none"
        )
        msg = f"lora: the encoder has no linear layers in attention that can be adapted; {others}"
        raise SpecError(msg)
    return chosen


def _fused_linears(name: str, module: nn.Module) -> list[str]:
    """Return how the names of linear layers begin whose weights a module reads directly."""
    if isinstance(module, FUSED):
        return [f"{name}."]
    # timm's BEiT, EVA and Swin V2 have a bias of their own for the queries
    return [f"{name}.qkv"] if getattr(module, "q_bias", None) is not None else []
