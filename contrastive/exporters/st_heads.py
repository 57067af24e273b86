"""Heads as modules of sentence-transformers: matrices with an activation behind each.

Shapes: F features, D the embedding's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from contrastive.config.extras import require
from contrastive.heads import Identity, Linear, Mlp

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.heads import Head


def head_problem(head: Head) -> str:
    """Return why a head has no counterpart; nothing if it has one."""
    if type(head) in (Identity, Linear, Mlp):
        return ""
    return f"a {head.registry.name_of(type(head))} head is made of no module that it has"


def head_modules(head: Head, module: nn.Module) -> list[Any]:
    """Return modules that compute what a head does, in its order."""
    if isinstance(head, Linear):
        return [dense(cast("nn.Linear", module))]
    if not isinstance(head, Mlp):
        return []
    if not head.residual:
        first, second = (part for part in module.children() if isinstance(part, nn.Linear))
        return [dense(first, nn.GELU()), dense(second)]
    return _residual(cast("Any", module))


def dense(linear: nn.Linear, activation: nn.Module | None = None) -> Any:
    """Return a linear layer, and what comes behind it."""
    bias: Tensor | None = cast("Any", linear).bias
    return _dense(linear.weight, bias, activation or nn.Identity())


def cut(width: int, kept: int) -> Any:
    """Return a layer that keeps the first numbers of each row."""
    return _dense(torch.eye(kept, width), None, nn.Identity())


def _residual(module: Any) -> list[Any]:
    """Return ``ResidualMlp`` in two layers and a LayerNorm: ``x = gelu(x) - gelu(-x)``."""
    modules = require(
        "sentence_transformers.sentence_transformer.modules", extra="sentence-transformers"
    )
    project, refine = module.project, module.refine
    both_weight = torch.cat([project.weight, -project.weight])
    both_bias = torch.cat([project.bias, -project.bias])
    one = torch.eye(len(refine.bias))
    sums = torch.cat([refine.weight + one, -one], dim=1)
    norm = modules.LayerNorm(len(refine.bias))
    norm.norm.load_state_dict(module.norm.state_dict())
    return [
        _dense(both_weight, both_bias, nn.GELU()),
        _dense(sums, refine.bias, nn.Identity()),
        norm,
    ]


def _dense(weight_DF: Tensor, bias_D: Tensor | None, activation: nn.Module) -> Any:
    modules = require(
        "sentence_transformers.sentence_transformer.modules", extra="sentence-transformers"
    )
    out_features, in_features = weight_DF.shape
    return modules.Dense(
        in_features,
        out_features,
        bias=bias_D is not None,
        activation_function=activation,
        init_weight=weight_DF.detach().clone(),
        init_bias=None if bias_D is None else bias_D.detach().clone(),
    )
