"""Whether several ranks train the model of one, tried before the first step.

Shapes: N rows of the global batch, n of a rank, D wide.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.config.provenance import described, is_ours
from contrastive.distributed.global_batch import alone
from contrastive.errors import TrainingError
from contrastive.losses.module import LossModule
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel

ROWS = 4  # of each rank
CLOSE = 1e-2  # of a norm: a loss of each rank's own rows is far off, rounding is far below


def check_loss_of_ranks(model: ContrastiveModel, ranks: Ranks) -> None:
    """Insist that a plugin's loss is, over all ranks, that of the global batch on one.

    Our own are tested for it; a loss whose ``negatives`` are local is asked to be another.

    Raises:
        TrainingError: its value or a gradient is not; all ranks raise it.
    """
    parts = [part for part in model.loss.modules() if isinstance(part, LossModule)]
    configs = [getattr(part, "config", None) for part in parts]
    local = any(getattr(config, "negatives", "") == "local" for config in configs)
    if ranks.size == 1 or local or all(is_ours(type(part)) for part in parts):
        return
    n = ROWS * ranks.size
    generator = torch.Generator().manual_seed(0)
    a_ND, b_ND = (
        normalize(torch.randn(n, model.spec.embed_dim, generator=generator)).to(model.device)
        for _ in range(2)
    )
    ids_N = (torch.arange(n) % (n // 2)).to(model.device)  # groups reach over ranks
    own = slice(ROWS * ranks.rank, ROWS * (ranks.rank + 1))
    with alone():
        whole = _value_and_gradients(model.loss, a_ND, b_ND, ids_N)
    found = _value_and_gradients(model.loss, a_ND[own], b_ND[own], ids_N[own])
    ranks.all_reduce_mean_([found[0], *found[3:]])  # as a step does; rows are a rank's own
    value, a_gradient, b_gradient, *gradients = whole
    expected = [value, a_gradient[own] * ranks.size, b_gradient[own] * ranks.size, *gradients]
    wrong = any(_far(x, y) for x, y in zip(found, expected, strict=True))
    if ranks.all_reduce_max(int(wrong)):
        msg = (
            f"model.loss: {described(type(model.spec.loss))} is another loss on {ranks.size} ranks "
            f"than on one: of one batch {float(found[0]):.4g} instead of {float(whole[0]):.4g}, or "
            "with other gradients; let it gather the batch by contrastive.interface."
            "gather_global_batch with group=BatchGroup.current(), or train on one rank"
        )
        raise TrainingError(msg)


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
