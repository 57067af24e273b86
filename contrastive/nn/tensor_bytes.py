"""What a tensor holds, byte by byte."""

from __future__ import annotations

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor as they lie in memory, on the CPU: ``[bytes]`` uint8.

    Example:
        >>> bytes_of(torch.tensor([1, 2], dtype=torch.int16)).tolist()
        [1, 0, 2, 0]
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.stride(-1) != 1:  # of one number or none, which torch calls contiguous in any case
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)
