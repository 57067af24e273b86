"""Modes of modules within a block: eval mode, one's own, and the precision of embeddings."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def eval_mode(module: torch.nn.Module) -> Generator[None]:
    """Put a module in eval mode within a block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def kept_modes(module: torch.nn.Module) -> Generator[None]:
    """Within a block, modes may be changed: each module, and autograd, has its own after it."""
    before = [(part, part.training) for part in module.modules()]
    grad = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        for part, training in before:
            part.training = training


_embedding_dtype: ContextVar[torch.dtype | None] = ContextVar("embedding_dtype", default=None)


@contextmanager
def embedding_in(dtype: torch.dtype | None) -> Generator[None]:
    """Within a block, let models embed under autocast; None is fp32, as everywhere else.

    The features of frozen encoders are cached, so that they stay fp32.
    """
    token = _embedding_dtype.set(dtype)
    try:
        yield
    finally:
        _embedding_dtype.reset(token)


def run_in_precision(
    tower: Callable[P, R], device: torch.device, /, *args: P.args, **inputs: P.kwargs
) -> R:
    """Return what a tower on a device gives, in the precision in which models embed."""
    dtype = _embedding_dtype.get()
    if dtype is None:  # whatever the caller's own autocast is
        return tower(*args, **inputs)
    with torch.autocast(device.type, dtype):
        return tower(*args, **inputs)
