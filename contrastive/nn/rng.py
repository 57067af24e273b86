"""The random generators of the CPU and of all GPUs, set back within a block."""

from __future__ import annotations

import torch
from torch import Tensor


class RngState:
    """The generators of the CPU and of all GPUs as they are now; within, as they were then."""

    def __init__(self) -> None:
        self.then = _generators()

    def __enter__(self) -> None:
        self.now = _generators()
        _set_generators(self.then)

    def __exit__(self, *_: object) -> None:
        _set_generators(self.now)

    def restore(self) -> None:
        """Set the generators to what they were then."""
        _set_generators(self.then)


def _generators() -> list[Tensor]:
    """Return the state of the CPU's generator, and of those of all GPUs, used here or not."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    apple = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return [torch.get_rng_state(), *apple, *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]


def _set_generators(states: list[Tensor]) -> None:
    cpu, *gpus = states
    torch.set_rng_state(cpu)
    if torch.backends.mps.is_available():
        torch.mps.set_rng_state(gpus.pop(0))
    for gpu, state in enumerate(gpus):
        torch.cuda.set_rng_state(state, gpu)
