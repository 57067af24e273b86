"""What is computed: a batch of features, the hard kinds of batches, and the answer in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from contrastive.losses import execution, functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.losses import Positives

Loss = Literal["infonce", "one-sided", "sigmoid"]
"""one-sided: infonce of the rows alone."""
LOSSES: tuple[Loss, ...] = ("infonce", "sigmoid")
BIAS = -10.0
SPEED_SCALE = 1 / 0.07  # CLIP's first temperature
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "amp": torch.float32}
"""Of features; amp is fp32 under autocast in bf16, with values that bf16 has."""
IDS: dict[str, Positives] = {"none": "ignore", "mask": "mask", "multi": "multi"}
"""Kinds of ids, and what rows of one group are to each other."""
GROUP = 3  # rows of a group, where there are ids
HUGE_PAIRS = 2**26  # beyond, float64 holds some rows of the logits at a time


@dataclass(frozen=True)
class Problem:
    """One batch: row i of a and row i of b are a matched pair."""

    loss: Loss
    a: Tensor
    b: Tensor
    scale: float
    """1 / temperature."""
    log_scale: Tensor
    """Its logarithm, scalar fp32."""
    bias: Tensor
    """Scalar fp32; infonce has none."""
    raw: bool
    """Rows have any length: to normalise them is part of the loss."""
    ids: str
    """One of ``IDS``."""
    dtype: str
    """One of ``DTYPES``."""

    @classmethod
    def of(
        cls,
        loss: Loss,
        a: Tensor,
        b: Tensor,
        scale: float,
        *,
        dtype: str,
        raw: bool = False,
        ids: str = "none",
    ) -> Problem:
        """Make leaves that want gradients of features ``[N, D]`` and ``[M, D]``, once rounded."""

        def leaf(value: float) -> Tensor:
            return torch.tensor(value, device=a.device, requires_grad=True)

        rounded = torch.bfloat16 if dtype == "amp" else DTYPES[dtype]
        features = [
            x.detach().clone().to(rounded).to(DTYPES[dtype]).requires_grad_() for x in (a, b)
        ]
        return cls(loss, *features, scale, leaf(math.log(scale)), leaf(BIAS), raw, ids, dtype)

    @property
    def groups(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Ids of both sides, if there are any; large numbers, as hashes are."""
        if self.ids == "none":
            return None, None
        return tuple(
            torch.arange(len(x), device=x.device) // GROUP * 7919 for x in (self.a, self.b)
        )

    @property
    def autocast(self) -> torch.autocast:
        """In which a loss is called."""
        amp = self.dtype == "amp"
        return torch.autocast(self.a.device.type, torch.bfloat16, enabled=amp)

    @property
    def inputs(self) -> list[Tensor]:
        """What gradients are taken of: a, b, log_scale, and bias if there is one."""
        return [self.a, self.b, self.log_scale, *([self.bias] * (self.loss == "sigmoid"))]


@dataclass(frozen=True)
class Shape:
    """Numbers of rows of both sides, and their width."""

    n: int
    m: int
    d: int

    def __str__(self) -> str:
        return f"{self.n} x {self.m} x {self.d}"


@dataclass(frozen=True)
class Regime:
    """A kind of batch that breaks some way to compute the loss."""

    make: Callable[[Shape, torch.Generator], tuple[Tensor, Tensor]]
    scale: float
    raw: bool = False

    def problem(
        self, loss: Loss, shape: Shape, *, seed: int, device: str, dtype: str, ids: str
    ) -> Problem:
        """Return a fresh batch."""
        a, b = self.make(shape, torch.Generator(device).manual_seed(seed))
        return Problem.of(loss, a, b, self.scale, raw=self.raw, dtype=dtype, ids=ids)


def noise(rows: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Return random directions, fp32."""
    return unit(
        torch.randn(rows, shape.d, generator=generator, device=generator.device, dtype=torch.float)
    )


def independent(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Matched pairs are as random ones."""
    return noise(shape.n, shape, generator), noise(shape.m, shape, generator)


def paired(cosine: float) -> Callable[[Shape, torch.Generator], tuple[Tensor, Tensor]]:
    """Matched pairs have that cosine, others about 0."""

    def make(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = independent(shape, generator)
        k = min(shape.n, shape.m)
        across = unit(b[:k] - (b[:k] * a[:k]).sum(1, keepdim=True) * a[:k])
        b[:k] = cosine * a[:k] + math.sqrt(1 - cosine**2) * across
        return a, b

    return make


def opposed(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The two sides are cones that point away from each other: all cosines are about -0.26."""
    axis = noise(1, shape, generator)
    a, b = independent(shape, generator)
    return tuple(
        unit(sign * math.sqrt(0.26) * axis + math.sqrt(0.74) * x) for sign, x in ((1, a), (-1, b))
    )


def any_length(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As ``paired(0.33)``, but rows have lengths from about 1 to 60."""

    def stretch(x: Tensor) -> Tensor:
        spread = torch.randn(len(x), 1, generator=generator, device=generator.device)
        return x * (8 * spread.mul(0.5).exp())

    a, b = paired(0.33)(shape, generator)
    return stretch(a), stretch(b)


REGIMES = {
    "random": Regime(independent, 14.3),
    "random, s=100": Regime(independent, 100.0),
    "CLIP-like, s=100": Regime(paired(0.33), 100.0),
    "fitted": Regime(paired(0.80), 14.3),
    "fitted, s=30": Regime(paired(0.80), 30.0),
    "fitted, s=100": Regime(paired(0.80), 100.0),
    "opposed cones, s=100": Regime(opposed, 100.0),
    "raw, any length": Regime(any_length, 14.3, raw=True),
}


@dataclass(frozen=True)
class Answer:
    """The loss and its gradients in float64, and what errors of single numbers are relative to."""

    loss: Tensor
    gradients: list[Tensor]
    scale_mass: Tensor | None
    """``sum |G x|``: of what terms the gradient of ``log_scale`` is the sum; None if not known."""
    bias_mass: Tensor | None
    """``sum |G|``."""


def answer(problem: Problem) -> Answer:
    """Compute a problem in float64 from the features as they are rounded.

    The plain functions write losses with softplus, so that tiny ones keep their digits. More than
    ``HUGE_PAIRS`` pairs are computed some rows at a time.
    """
    inputs = [x.detach().double().requires_grad_() for x in problem.inputs]
    a, b, log_scale, *bias = inputs
    if problem.raw:
        a, b = unit(a), unit(b)
    roles: dict[str, Any] = {"positives": IDS[problem.ids]}
    if problem.loss != "sigmoid":
        roles["direction"] = "both" if problem.loss == "infonce" else "a_to_b"
    if len(a) * len(b) > HUGE_PAIRS:
        given = {"log_scale": log_scale, **({"bias": bias[0]} if bias else {})}
        in_rows = execution.sigmoid if bias else execution.infonce
        loss = in_rows(a, b, *problem.groups, execution="chunked", **given, **roles)
        return Answer(loss.detach(), list(torch.autograd.grad(loss, inputs)), None, None)
    x_NM = functional.similarity(a, b, log_scale=log_scale, bias=bias[0] if bias else None)
    of_logits = functional.sigmoid_from_logits if bias else functional.infonce_from_logits
    loss = of_logits(x_NM, *problem.groups, **roles)
    *gradients, g_NM = torch.autograd.grad(loss, [*inputs, x_NM])
    with torch.no_grad():
        similarity_NM = x_NM - bias[0] if bias else x_NM
        return Answer(
            loss.detach(), gradients, (g_NM * similarity_NM).abs().sum(), g_NM.abs().sum()
        )
