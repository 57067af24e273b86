"""Eval mode within a block."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch


@contextmanager
def eval_mode(module: torch.nn.Module) -> Generator[None]:
    """Put a module in eval mode within a block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
