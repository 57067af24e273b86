"""What the losses take: each argument that does not fit is refused in one line.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, cast, get_args

import torch

from contrastive.errors import a_type
from contrastive.losses import (
    Candidates,
    Direction,
    Exchange,
    Execution,
    MatmulDtype,
    Positives,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_CHOICES: dict[str, tuple[str, ...]] = {
    "positives": get_args(Positives),
    "direction": get_args(Direction),
    "candidates": get_args(Candidates),
    "execution": get_args(Execution),
    "matmul_dtype": get_args(MatmulDtype),
    "exchange": get_args(Exchange),
}
# by the argument's name
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "label_smoothing": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "beta": (lambda x: 0 <= x < math.inf, "of at least 0"),
    "tau_plus": (lambda x: 0 <= x < 1, "from 0 to less than 1"),
    "sigma": (lambda x: 0 < x < math.inf, "above 0"),
}
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def check_embeddings(
    a: Any, b: Any, a_ids: Any = None, b_ids: Any = None, *, prefix: str = ""
) -> None:
    """Refuse what is no matrix of embeddings, and ids that are no integers beside them.

    ``prefix`` is what their names have before a and b.

    Raises:
        ValueError: a or b is not ``[N, D]`` of floating-point numbers, they differ in width, or
            something is on another device; ids are no tensors of integers.
    """
    for name, x in ((f"{prefix}a", a), (f"{prefix}b", b)):
        if not isinstance(x, torch.Tensor):
            msg = f"{name} is {a_type(x)}; give a tensor [N, D]"
            raise ValueError(msg)  # noqa: TRY004  (as of any other value that does not fit)
        if x.layout != torch.strided or x.is_nested:
            msg = f"{name} is {'nested' if x.is_nested else 'sparse'}; give a dense tensor [N, D]"
            raise ValueError(msg)
        if x.ndim != 2 or x.dtype not in _FLOATS:
            about = f"shape {tuple(x.shape)} and type {x.dtype}"
            msg = (
                f"{name} has {about}; give embeddings [N, D] of floating-point numbers of 16 to "
                "64 bits"
            )
            raise ValueError(msg)
    if a.shape[1] != b.shape[1]:
        msg = f"embeddings differ in width ({prefix}a {a.shape[1]}, {prefix}b {b.shape[1]})"
        raise ValueError(msg)
    for name, ids in (("a_ids", a_ids), ("b_ids", b_ids)):
        if ids is None:
            continue
        if not isinstance(ids, torch.Tensor):
            msg = f"{name} is {a_type(ids)}; give a tensor of integers, as torch.tensor({name})"
            raise ValueError(msg)  # noqa: TRY004
        if ids.is_floating_point() or ids.is_complex():
            msg = f"{name} is of {ids.dtype}; give integers, as {name}.long()"
            raise ValueError(msg)
    check_devices(a, **{f"{prefix}b": b}, a_ids=a_ids, b_ids=b_ids)
    if a.is_meta:
        msg = f"{prefix}a is on the meta device, which holds no numbers; give it on a CPU or GPU"
        raise ValueError(msg)


def check_devices(a: Tensor, **others: Tensor | None) -> None:
    """Refuse what is on another device than the embeddings, before a kernel meets it.

    Raises:
        ValueError: names both devices.
    """
    for name, x in others.items():
        if x is not None and x.device != a.device:
            msg = f"{name} is on {x.device}, a on {a.device}; give {name}.to({str(a.device)!r})"
            raise ValueError(msg)


def check_options(**given: Any) -> None:
    """Refuse words that are no choice, and numbers out of bounds, by the arguments' names.

    Raises:
        ValueError: names the argument and what it may be.
    """
    for name, value in given.items():
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                msg = f"{name} is {value!r}; give one of {', '.join(_CHOICES[name])}"
                raise ValueError(msg)
            continue
        fits, words = _NUMBERS[name]
        if not (isinstance(value, Real) and fits(cast("float", value))):
            msg = f"{name} is {value!r}; give a number {words}"
            raise ValueError(msg)


def as_scalar(x: Tensor | float, *like: Tensor, name: str = "bias") -> Tensor:
    """Return a scalar tensor of the type of sums over ``like``; a number, on their device.

    Raises:
        ValueError: it is not a single number.
    """
    dtype = torch.float32
    for each in like:
        dtype = torch.promote_types(dtype, each.dtype)
    if isinstance(x, torch.Tensor):
        if x.numel() != 1 or x.is_complex():
            about = f"shape {tuple(x.shape)} and type {x.dtype}"
            msg = f"{name} has {about}; give one real number"
            raise ValueError(msg)
        return x.reshape(()).to(dtype)
    if not isinstance(x, Real) or not math.isfinite(x):
        msg = f"{name} is {x!r}; give one number"
        raise ValueError(msg)
    # a copy from the host would wait
    return torch.full((), float(x), dtype=dtype, device=like[0].device)


def as_log_scale(
    log_scale: Tensor | float | None, temperature: Tensor | float | None, *like: Tensor
) -> Tensor:
    """Return the log scale, of whichever of the two is given.

    Raises:
        ValueError: both are given or none, one is not a single number, or the temperature is a
            number that is not above 0.
    """
    if (temperature is None) == (log_scale is None):
        msg = "give one of log_scale and temperature"
        raise ValueError(msg)
    if log_scale is not None:
        return as_scalar(log_scale, *like, name="log_scale")
    given = as_scalar(cast("Tensor | float", temperature), *like, name="temperature")
    if not isinstance(temperature, torch.Tensor) and not cast("float", temperature) > 0:
        msg = f"temperature is {temperature}; it has to be above 0"
        raise ValueError(msg)
    return -given.log()
