"""Activation checkpointing: layers keep their inputs alone, and run again for their gradients.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174. The switches of
timm and transformers are not used: theirs would count each batch twice in BatchNorm's statistics,
and do nothing for layers in eval mode, such as frozen ones with LoRA.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager


def recompute_(modules: Iterable[nn.Module]) -> None:
    """Let modules forget what is inside them in the forward pass, from now on.

    Values, gradients, dropout and BatchNorm's statistics are as without. Modules that are given
    twice forget once. Where gradients are off, nothing changes.
    """
    for module in modules:
        if not isinstance(vars(module).get("forward"), _Recomputed):
            module.forward = _Recomputed(module, module.forward)


class _Recomputed:
    """The ``forward`` of a module that runs again for its gradients."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self.forward = module, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(
            self._on_copies,
            *map(_copied, args),
            use_reentrant=False,
            preserve_rng_state=False,  # knows the devices of the arguments only
            context_fn=partial(_contexts, self.module),
            **kwargs,
        )

    def _on_copies(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*map(_copied, args), **kwargs)


def _copied(argument: Any) -> Any:
    """Return a list anew, as those that are handed on grow (DenseNet) or change (HRNet)."""
    return [*cast("list[Any]", argument)] if isinstance(argument, list) else argument


def _contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return what surrounds the first pass, and what each later one."""
    return nullcontext(), _Again([m for m in module.modules() if isinstance(m, _BatchNorm)])


class _Again:
    """Within, randomness and BatchNorm's mode are those of the first pass; statistics stay."""

    def __init__(self, norms: list[_BatchNorm]) -> None:
        self.norms = norms
        self.modes = [norm.training for norm in norms]
        self.randomness = RngState()

    def __enter__(self) -> None:
        self.randomness.__enter__()
        self.now = [(norm.training, dict(norm.named_buffers(recurse=False))) for norm in self.norms]
        for norm, mode in zip(self.norms, self.modes, strict=True):
            norm.training = mode
            for name, buffer in norm.named_buffers(recurse=False):
                setattr(norm, name, buffer.clone())  # not in place: autograd has the old ones

    def __exit__(self, *error: object) -> None:
        for norm, (mode, buffers) in zip(self.norms, self.now, strict=True):
            norm.training = mode
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
        self.randomness.__exit__(*error)
