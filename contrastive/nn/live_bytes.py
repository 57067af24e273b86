"""Bytes of tensors that are alive, operation by operation: a count, so the same on every machine.

It sees what operations return, not the workspace that a kernel takes inside one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class LiveBytes(TorchDispatchMode):
    """Counts, within a block, the bytes of tensors that operations make, until they are freed."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Count none of the tensors that are there already, nor their views."""
        super().__init__()
        self.now = 0
        self.after: list[int] = []
        """The count after each operation."""
        self._held = list(known)  # so that no other tensor takes their place
        self._seen = {x.untyped_storage().data_ptr() for x in self._held}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.after.append(self.now)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place and place not in self._seen:
            self._seen.add(place)
            self.now += size
            finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size
