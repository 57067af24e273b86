"""Matrix products whose result is wider than what is multiplied: bf16 in, fp32 out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def multiply(x: Tensor, y: Tensor, *, out: Tensor, add: bool = False) -> None:
    """Write ``x @ y`` to ``out``, or add it; ``out`` may be wider.

    A GPU rounds only what it multiplies. On a CPU a product in half precision is rounded as well,
    before it is added.
    """
    if x.dtype == out.dtype:
        torch.addmm(out, x, y, out=out) if add else torch.mm(x, y, out=out)
    elif x.is_cuda:
        wider = {"out_dtype": out.dtype, "out": out}
        torch.addmm(out, x, y, **wider) if add else torch.mm(x, y, **wider)
    elif add:
        out.add_(x @ y)
    else:
        out.copy_(x @ y)
