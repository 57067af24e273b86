"""Many hidden states to one feature vector, padding left out.

Shapes: B samples, L places (tokens or patches), F features; a mask is true where a token is real.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(hidden_BLF: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean over real tokens ``[B, F]`` in fp32; zero where there is none.

    Example:
        >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """
    real = mask_BL.bool().unsqueeze(-1)
    total = hidden_BLF.float().masked_fill(~real, 0).sum(1)  # not times 0: padding may be NaN
    return total / real.sum(1).clamp(min=1)


def first_token(hidden_BLF: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the first real token ``[B, F]``, whichever side the padding is on."""
    return _take(hidden_BLF, mask_BL.int().argmax(1))


def last_token(hidden_BLF: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the last real token ``[B, F]``, whichever side the padding is on."""
    places = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return _take(hidden_BLF, (mask_BL.int() * places).argmax(1))


POOLINGS = {"mean": masked_mean, "cls": first_token, "last": last_token}


def _take(hidden_BLF: Tensor, place_B: Tensor) -> Tensor:
    # not by a range of rows, nor by take_along_dim: both fix sizes in an exported graph
    place_B1F = place_B[:, None, None].expand(-1, 1, hidden_BLF.shape[2])
    return hidden_BLF.gather(1, place_B1F).squeeze(1)
