"""Deviations of a loss and its gradients from the float64 reference, and the bars they meet.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Relative errors that pass.

    Example:
        >>> Tolerance.of(torch.float32).loss < Tolerance(1e-3, 1e-3, 1e-2, 1e-3, 1e-3).loss
        True
    """

    loss: float
    gradient: float
    """Of the gradient of the embeddings, by the Frobenius norm."""
    rows: float
    """Of a row of that gradient: the 99th percentile of the rows' errors."""
    log_scale: float
    """Of the gradient of ``log_scale``, relative to ``sum |G x|`` over logits x and their
    gradients G, as the terms of ``sum G x`` may cancel."""
    bias: float
    """Of the gradient of ``bias``, relative to ``sum |G|``."""
    logit: float = 0.0
    """Error of a logit relative to the logit scale s. An error of ``s * logit`` in an exponent is
    the same relative error of its exp, and so is added to all bars."""

    @classmethod
    def of(cls, dtype: torch.dtype) -> Tolerance:
        """Return the default for embeddings of a type.

        float64 and fp32 allow for the rounding of logits and sums. The reference gets bf16/fp16
        embeddings as rounded, so their loss is as exact; their gradients may be rounded.
        """
        match dtype:
            case torch.float64:
                return cls(1e-10, 1e-10, 1e-10, 1e-10, 1e-10)
            case torch.float32:
                return cls(1e-5, 1e-5, 2e-5, 1e-5, 1e-5, logit=2e-7)
            case _:
                return cls(1e-5, 3e-3, 1e-2, 2e-3, 1e-3, logit=2e-7)


@dataclass(frozen=True)
class Outcome:
    """What a call of a loss gives."""

    loss: Tensor
    gradients: dict[str, Tensor | None]
    """By the name of the argument; None where autograd finds no path to it."""
    factor: float = 1.0
    """The gradients are those of the loss times this."""


@dataclass(frozen=True)
class Reference:
    """The right outcome, all float64."""

    loss: Tensor
    gradients: dict[str, Tensor]
    sizes: dict[str, float]
    """For the gradient of a scalar, the sum of the absolute values of its terms."""
    least: float
    """A smaller loss, or gradient of a scalar, has no relative precision: its terms cancel or
    underflow."""
    least_row: float
    """The same for a row of the gradient of an embedding."""


@dataclass(frozen=True)
class Deviation:
    """One difference from the reference."""

    of: str
    error: float
    bar: float
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.of}: error {self.error:.2g}, bar {self.bar:.2g}"
        return f"{text} ({self.detail})" if self.detail else text


def deviations(
    outcome: Outcome, reference: Reference, tolerance: Tolerance, scale: float
) -> list[Deviation]:
    """Return the deviations of a loss and of the gradients that it has, small or large ones.

    ``scale`` is the logit scale.
    """
    slack, found = scale * tolerance.logit, list[Deviation]()

    def add(of: str, error: Tensor | float, bar: float, detail: str) -> None:
        error = math.inf if math.isnan(error) else float(error)
        found.append(Deviation(of, error, bar + slack, detail))

    value, right = float(outcome.loss), float(reference.loss)
    off, detail = abs(value - right), f"{value:.9g} instead of {right:.9g}"
    if (tolerance.loss + slack) * right < off < 1e-5 and 0 < right < 1e-3:
        detail += "; tiny losses survive as softplus(log(sum over the others) - x), not otherwise"
    add("loss", off / max(right, reference.least), tolerance.loss, detail)
    for name, gradient in outcome.gradients.items():
        true, of = reference.gradients[name], f"gradient of {name}"
        if gradient is None:
            detail = "missing: autograd finds no path from the loss"
            found.append(Deviation(of, math.inf if true.any() else 0.0, 0.0, detail))
            continue
        tiny = torch.finfo(gradient.dtype).tiny / outcome.factor
        wide = gradient.double() / outcome.factor
        if true.dim() == 0:
            bar = tolerance.bias if name == "bias" else tolerance.log_scale
            size = max(reference.sizes[name], tiny, reference.least)
            add(of, (wide - true).abs() / size, bar, _describe(wide, true))
            continue
        least = max(tiny * true.shape[1] ** 0.5, reference.least_row)
        row_size_N, row_error_N = _lengths(true).clamp(min=least), _lengths(wide - true)
        error = _lengths(row_error_N) / _lengths(row_size_N)
        add(of, error, tolerance.gradient, _describe(wide, true))
        row_error_N /= row_size_N
        which = f"row {int(row_error_N.nan_to_num(torch.inf).argmax())} is the worst"
        add(f"rows of the {of}", row_error_N.quantile(0.99), tolerance.rows, which)
    return found


def _lengths(x: Tensor) -> Tensor:
    return x.square().sum(-1).sqrt()


def _describe(x: Tensor, true: Tensor) -> str:
    """Say whether ``x`` is not finite, or zero, or a multiple of what it should be."""
    if not x.isfinite().all():
        if x.dim() == 0:
            return f"it is {float(x)}"
        rows = [i for i, row in enumerate(x) if not row.isfinite().all()]
        return f"not finite in {len(rows)} of {len(x)} rows, the first of them {rows[0]}"
    if not x.any() and true.any():
        return "it is zero"
    times = float((x * true).sum() / (true * true).sum().clamp(min=1e-300))
    left_over = float((x - times * true).square().sum())
    if abs(times - 1) > 1e-3 and left_over < 1e-4 * float(x.square().sum()):
        return f"{times:.4g} times the right one"
    return ""
