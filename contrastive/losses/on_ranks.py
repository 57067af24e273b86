"""Whether a loss is, over several ranks, that of the global batch on one.

Shapes: N rows of the global batch, n of a rank, D wide.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.distributed.global_batch import alone
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from contrastive.distributed.ranks import Ranks
    from contrastive.losses.module import LossModule

GATHER = (
    "let it gather the batch by contrastive.interface.gather_global_batch with "
    "group=BatchGroup.current()"
)
"""What to do about a loss that is another one."""
ROWS = 4  # of each rank
CLOSE = 1e-2  # of a norm: a loss of each rank's own rows is far off, rounding is far below


def has_local_negatives(loss: LossModule) -> bool:
    """Whether a loss, or one inside it, is asked to be that of each rank's own rows."""
    configs = (getattr(part, "config", None) for part in loss.modules())
    return any(getattr(config, "negatives", "") == "local" for config in configs)


def other_on_ranks(
    loss: LossModule, width: int, ranks: Ranks, device: torch.device
) -> tuple[float, float] | None:
    """Compare a loss over all ranks with that of the same batch on one.

    Returns:
        Its value on the ranks and on one, where they or a gradient differ on any rank; else None.
    """
    n = ROWS * ranks.size
    generator = torch.Generator().manual_seed(0)
    a_ND, b_ND = (
        normalize(torch.randn(n, width, generator=generator)).to(device) for _ in range(2)
    )
    ids_N = (torch.arange(n) % (n // 2)).to(device)  # groups reach over ranks
    own = slice(ROWS * ranks.rank, ROWS * (ranks.rank + 1))
    with alone():
        whole = _value_and_gradients(loss, a_ND, b_ND, ids_N)
    found = _value_and_gradients(loss, a_ND[own], b_ND[own], ids_N[own])
    ranks.all_reduce_mean_([found[0], *found[3:]])  # as a step does; rows are a rank's own
    value, a_gradient, b_gradient, *gradients = whole
    expected = [value, a_gradient[own] * ranks.size, b_gradient[own] * ranks.size, *gradients]
    wrong = any(_far(x, y) for x, y in zip(found, expected, strict=True))
    return (float(found[0]), float(value)) if ranks.all_reduce_max(int(wrong)) else None


def _far(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by more than rounding; a NaN does."""
    gap, length = (float(x.square().sum().sqrt()) for x in (found - expected, expected))
    return not gap <= CLOSE * length + 1e-6


def _value_and_gradients(loss: LossModule, a: Tensor, b: Tensor, ids: Tensor) -> list[Tensor]:
    """Return the value of a loss, and its gradients for a, b and its parameters."""
    copy = deepcopy(loss).train()  # which may remember what it has seen
    rows = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    learned = [p for p in copy.parameters() if p.requires_grad]
    with RngState():
        torch.manual_seed(0)
        value, _ = copy(*rows, ids)
    leaves = [*rows, *learned]
    found = cast("Any", torch.autograd.grad(value, leaves, allow_unused=True))
    gradients = [
        torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)
    ]
    return [value.detach().clone(), *gradients]
