"""Tensors of which each rank holds a shard (torch's ``DTensor``), beside those that it holds whole.

torch's functions over lists take either kind, not both at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_sharded(x: Tensor) -> bool:
    """Whether each rank holds a part of a tensor."""
    return hasattr(x, "full_tensor")  # without the import of torch.distributed, which takes long


def has_shards(module: nn.Module) -> bool:
    """Whether weights of a module are sharded now; within ``whole_weights`` none are."""
    return any(is_sharded(p) for p in module.parameters())


def own_part(x: Tensor) -> Tensor:
    """Return what this rank holds of a tensor: its shard, or all of it."""
    return cast("Any", x).to_local() if is_sharded(x) else x


def whole(x: Tensor) -> Tensor:
    """Return a tensor whole; if it is sharded, all ranks must ask."""
    return cast("Any", x).full_tensor() if is_sharded(x) else x


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return those that are held whole and those that are sharded, without empty lists."""
    kinds: tuple[list[Tensor], list[Tensor]] = [], []
    for x in tensors:
        kinds[is_sharded(x)].append(x)
    return [kind for kind in kinds if kind]


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of tensors as one vector, a scalar; of sharded ones, all ranks must ask."""
    norms = [whole(nn.utils.get_total_norm(kind)) for kind in by_kind(tensors)]
    if len(norms) == 1:
        return norms[0]
    return cast("Any", torch.stack(norms)).norm() if norms else torch.zeros(())
