"""Devices: which are there, where a module is, and how many samples suit one."""

from __future__ import annotations

import torch

from contrastive.errors import SpecError

# rows that an encoding computes, and may lose, at a time: on a CPU larger ones are slower, since
# their activations leave its caches; fewer samples are filled up to them
CPU_BATCH, GPU_BATCH = 8, 64


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def batch_size(module: torch.nn.Module) -> int:
    """Return how many samples to encode at a time."""
    return CPU_BATCH if device_of(module).type == "cpu" else GPU_BATCH


def widest_float(device: torch.device | str) -> torch.dtype:
    """Return the type with the most digits that a device has: Apple's GPUs have no float64."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def pick_device(name: str = "auto") -> torch.device:
    """Return a device that is there; ``auto`` is a GPU if there is one, NVIDIA's or Apple's.

    Raises:
        SpecError: there is no such device.
    """
    if name == "auto":
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
        return torch.device(next((kind for kind, is_there in there.items() if is_there()), "cpu"))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # each backend that is not there has an error of its own
        why = (str(error).splitlines() or [""])[0]
        why = "" if why.startswith("Expected one of") else f" ({why})"  # a page of names
        msg = f"device {name!r} is not available; choose auto: a GPU if there is one; or cpu, cuda"
        msg += why
        raise SpecError(msg) from None
    if device.type == "meta":
        msg = "device 'meta' holds no numbers; choose cpu, cuda, ... or auto"
        raise SpecError(msg)
    return device
