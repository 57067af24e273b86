"""The settings of torch that everything in a process shares, and no component may change."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from contrastive.testing.checks import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}


@contextmanager
def same_settings() -> Generator[None]:
    """Put settings back that a block changes, whatever ends it.

    Raises:
        Fault: the block ends well, but with another setting.
    """
    before = {what: get() for what, (get, _) in SETTINGS.items()}
    changed: list[str] = []
    try:
        yield
    finally:
        for what, (get, put) in SETTINGS.items():
            if (value := get()) != before[what]:
                changed.append(f"torch's {what} from {before[what]} to {value}")
                put(before[what])
    if changed:
        problem = f"build() changes {' and '.join(changed)}"
        raise Fault(problem, "leave what others share as it is; give dtypes to the tensors")
