"""How far an implementation is from float64, and whether that passes.

Bars, relative errors: of the loss; of a tower's gradient in the Frobenius norm; of its rows, the
99th percentile; of the gradients of scale and bias, relative to the sum of the sizes of their
terms. Two runs are to agree in every bit. Each type of products has bars of its own.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.losses.implementations import Implementation
    from benchmarks.losses.problems import Answer, Problem

BARS = {
    "half": {"loss": 1e-5, "gradients": 3e-3, "rows": 1e-2, "scale": 2e-3, "bias": 1e-3},
    "tf32": {"loss": 1e-3, "gradients": 1e-3, "rows": 1e-2, "scale": 1e-3, "bias": 1e-3},
    "fp32": {"loss": 1e-5, "gradients": 1e-5, "rows": 1e-4, "scale": 1e-5, "bias": 1e-5},
}


def bars(implementation: Implementation, dtype: str) -> dict[str, float]:
    """Return the largest errors that pass."""
    half = dtype != "fp32" or implementation.products == "bf16"
    return BARS["half" if half else implementation.products]


def judge(implementation: Implementation, problem: Problem, truth: Answer) -> dict[str, Any]:
    """Return an implementation's errors on a problem, and PASS or FAIL with what failed.

    Its memory holds NaN before it begins, so that what it does not write shows. A gradient that an
    implementation does not give, or of whose terms the size is not known, is listed as absent; that
    is no failure.
    """
    runs = []
    for _ in range(2):
        with poisoned(problem.a.device):
            loss = implementation.call(problem)()
            given = torch.autograd.grad(loss, problem.inputs, allow_unused=True)
        runs.append((loss.detach(), *given))
    errors = compare(runs[0], truth)
    limits = bars(implementation, problem.dtype)
    failed = [
        name for name, error in errors.items() if error is not None and not error <= limits[name]
    ]
    repeatable = all(same(x, y) for x, y in zip(*runs, strict=True))
    return {
        "status": "FAIL" if failed or not repeatable else "PASS",
        "failed": failed if repeatable else [*failed, "two runs differ"],
        "errors": {name: _plain(error) for name, error in errors.items()},
        "absent": [name for name, error in errors.items() if error is None],
        "repeatable": repeatable,
        "value": _plain(float(runs[0][0])),
        "true_value": float(truth.loss),
    }


def compare(run: tuple[Tensor | None, ...], truth: Answer) -> dict[str, float | None]:
    """Return relative errors by name; NaN where a result is not a number."""
    loss, a, b, scale, *bias = run
    assert loss is not None
    towers = list(zip((a, b), truth.gradients[:2], strict=True))
    absent = a is None or b is None
    return {
        "loss": _ratio(loss.double() - truth.loss, truth.loss),
        "gradients": None if absent else _worst([_ratio(x.double() - y, y) for x, y in towers]),
        "rows": None if absent else _worst([_rows(x.double(), y) for x, y in towers]),
        "scale": _single(scale, truth.gradients[2], truth.scale_mass),
        **({"bias": _single(bias[0], truth.gradients[3], truth.bias_mass)} if bias else {}),
    }


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """Fill memory that is handed out without a value with NaN."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        filled = [
            torch.full((size // 4,), torch.nan, device=device)
            for size in (min(2**31, free // 4), *[2**20] * 8)
        ]
        del filled  # it stays in the allocator's cache, for the next who asks
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # the switch for the filling
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def same(x: Tensor | None, y: Tensor | None) -> bool:
    """Return whether two results agree in every bit."""
    return (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))


def _ratio(difference: Tensor, whole: Tensor) -> float:
    return float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(whole))


def _rows(x: Tensor, y: Tensor) -> float:
    error, length = (torch.linalg.vector_norm(z, dim=1) for z in (x - y, y))
    each = torch.where(error == 0, 0, error / length)  # a row without a positive may have none
    ordered = each.nan_to_num(nan=torch.inf).sort().values
    return float(ordered[math.ceil(0.99 * len(ordered)) - 1])


def _single(x: Tensor | None, y: Tensor, mass: Tensor | None) -> float | None:
    return None if x is None or mass is None else float((x.double() - y).abs() / mass)


def _worst(errors: list[float]) -> float:
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _plain(number: float | None) -> float | str | None:
    """JSON has neither NaN nor infinity."""
    return str(number) if number is not None and not math.isfinite(number) else number
