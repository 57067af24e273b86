"""What is computed: a batch of features, the hard kinds of batches, and the answer in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.functional import normalize as unit

if TYPE_CHECKING:
    from collections.abc import Callable

Loss = Literal["infonce", "sigmoid"]
LOSSES: tuple[Loss, ...] = ("infonce", "sigmoid")
BIAS = -10.0
SPEED_SCALE = 1 / 0.07  # CLIP's first temperature


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

    @classmethod
    def of(cls, loss: Loss, a: Tensor, b: Tensor, scale: float, *, raw: bool = False) -> Problem:
        """Make leaves that want gradients of features ``[N, D]`` and ``[M, D]``."""

        def leaf(value: float) -> Tensor:
            return torch.tensor(value, device=a.device, requires_grad=True)

        features = [x.detach().clone().requires_grad_() for x in (a, b)]
        return cls(loss, *features, scale, leaf(math.log(scale)), leaf(BIAS), raw)

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
        self, loss: Loss, shape: Shape, *, seed: int, dtype: torch.dtype, device: str
    ) -> Problem:
        """Return a fresh batch, its features rounded to ``dtype``."""
        a, b = self.make(shape, torch.Generator(device).manual_seed(seed))
        return Problem.of(loss, a.to(dtype), b.to(dtype), self.scale, raw=self.raw)


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
    scale_mass: Tensor
    """``sum |G x|``: of what terms the gradient of ``log_scale`` is the sum."""
    bias_mass: Tensor
    """``sum |G|``."""


def answer(problem: Problem) -> Answer:
    """Compute a problem in float64 from the features as they are rounded.

    Both losses are written with softplus, so that tiny ones keep their digits.
    """
    inputs = [x.detach().double().requires_grad_() for x in problem.inputs]
    a, b, log_scale = inputs[:3]
    if problem.raw:
        a, b = unit(a), unit(b)
    x_NM = log_scale.exp() * (a @ b.T)
    if problem.loss == "sigmoid":
        x_NM = x_NM + inputs[3]
    partner_NM = torch.eye(*x_NM.shape, dtype=torch.bool, device=x_NM.device)
    if problem.loss == "sigmoid":
        loss = -logsigmoid(torch.where(partner_NM, x_NM, -x_NM)).sum() / min(x_NM.shape)
    else:
        positive_K = x_NM.diagonal()
        others_NM = x_NM.masked_fill(partner_NM, -torch.inf)
        sides = [others_NM.logsumexp(dim)[: len(positive_K)] for dim in (1, 0)]
        loss = sum(-logsigmoid(positive_K - side).mean() for side in sides) / 2
    *gradients, g_NM = torch.autograd.grad(loss, [*inputs, x_NM])
    with torch.no_grad():
        similarity_NM = x_NM - inputs[3] if problem.loss == "sigmoid" else x_NM
        return Answer(
            loss.detach(), gradients, (g_NM * similarity_NM).abs().sum(), g_NM.abs().sum()
        )
