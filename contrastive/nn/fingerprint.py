"""A module's weights: their SHA-256, remembered until they change, and whether they are finite."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from contrastive.nn.sharded_tensors import own_part, whole
from contrastive.nn.tensor_bytes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the name of the first tensor with a NaN or an infinity, or nothing."""
    real = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    finite: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
    for _, tensor in real:
        finite[tensor.device].append(tensor.isfinite().all())
    if all(bool(torch.stack(flags).all()) for flags in finite.values()):  # a device is asked once
        return ""
    return next(name for name, tensor in real if not tensor.isfinite().all())


def weights_fingerprint(module: torch.nn.Module, *, only: Container[str] | None = None) -> str:
    """Return the SHA-256 of a module's parameters and buffers, names and shapes included.

    It is remembered until a tensor is replaced or changed in place. Of sharded ones, all ranks must
    ask.

    Args:
        module: whose they are.
        only: the names of those that count; all if None.
    """
    state = sorted(module.state_dict().items())
    if only is not None:
        state = [(name, tensor) for name, tensor in state if name in only]
    version = tuple((name, own_part(x).data_ptr(), x._version) for name, x in state)
    known = _fingerprints.get(module)
    if known is None or known[0] != version:
        known = _fingerprints[module] = version, hash_tensors(state)
    return known[1]


_fingerprints: WeakKeyDictionary[torch.nn.Module, tuple[object, str]] = WeakKeyDictionary()


def hash_tensors(state: list[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 of tensors with their names and shapes."""
    total = hashlib.sha256()
    for name, tensor in state:
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(cast("Any", bytes_of(whole(tensor.detach())).numpy()))
    return total.hexdigest()
