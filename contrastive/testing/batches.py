"""Hard batches for losses: exponentials overflow, vanish, or cancel.

Shapes: N rows of a, M rows of b, D wide, K = min(N, M) matched pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Generator, Tensor

    Embeddings = Callable[[int, int, int, Generator], tuple[Tensor, Tensor]]
    Ids = Callable[[int, int, Generator], Sequence[Tensor | None]]


@dataclass(frozen=True)
class Regime:
    """A kind of batch."""

    scale: float
    """The logit scale, 1/temperature."""
    embeddings: Embeddings
    """N, M, D and a generator to ``[N, D]`` and ``[M, D]`` of length 1, float64."""


def matched(cosine: float) -> Embeddings:
    """Return a maker of random rows whose matched pairs have the given cosine."""

    def make(n: int, m: int, d: int, generator: Generator) -> tuple[Tensor, Tensor]:
        a, b = _random(n, d, generator), _random(m, d, generator)
        k = min(n, m)
        along_K = (a[:k] * b[:k]).sum(1, keepdim=True)
        across = normalize(b[:k] - along_K * a[:k], dim=1)
        return a, torch.cat([cosine * a[:k] + (1 - cosine**2) ** 0.5 * across, b[k:]])

    return make


def independent(n: int, m: int, d: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return random rows."""
    return _random(n, d, generator), _random(m, d, generator)


def opposed_cones(n: int, m: int, d: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return rows of two cones that point away from each other: cosines of about -0.26."""
    axis = 0.593 * _random(1, d, generator)
    a, b = independent(n, m, d, generator)
    return normalize(a + axis, dim=1), normalize(b - axis, dim=1)


def lone_pair(n: int, m: int, d: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return opposed cones and, in the middle, one pair that is aligned.

    The pair asks for a shift of all exponents under which those of the others vanish.
    """
    a, b = opposed_cones(n, m, d, generator)
    a[min(n, m) // 2] = b[min(n, m) // 2] = _random(1, d, generator)[0]
    return a, b


REGIMES = {
    "random_s14": Regime(1 / 0.07, independent),
    "random_s100": Regime(100, independent),
    "clip_like_s100": Regime(100, matched(0.33)),
    "fitted_s14": Regime(1 / 0.07, matched(0.8)),
    "fitted_s30": Regime(30, matched(0.8)),
    "opposed_cones_s100": Regime(100, opposed_cones),
    "lone_pair_s300": Regime(300, lone_pair),
}


def _random(n: int, d: int, generator: Generator) -> Tensor:
    return normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


# Some of these are equal in 32 bits, or as floating-point numbers, without being equal.
_FAR = torch.tensor([0, 2**32, -1, 2**32 - 1, 2**40, 2**40 + 1, 2**53, 2**53 + 1, -(2**62), 2**62])


def _each(of: Callable[[Tensor], Tensor]) -> Ids:
    """Both sides' ids by a function of the row."""
    return lambda n, m, _: (of(torch.arange(n)), of(torch.arange(m)))


def _some_without(n: int, m: int, _: Generator) -> tuple[Tensor, Tensor]:
    a_ids, b_ids = torch.arange(n) // 2, torch.arange(m) // 2
    a_ids[::3] += 10_000
    b_ids[1::4] -= 10_000
    return a_ids, b_ids


def _drawn(high: int, n: int, m: int, generator: Generator) -> list[Tensor]:
    """Random numbers below ``high``: groups that matched rows need not share."""
    return [torch.randint(high, (x,), generator=generator) for x in (n, m)]


IDS: dict[str, Ids] = {
    "no_ids": lambda _n, _m, _: (None, None),
    "distinct_ids": _each(lambda i: 3 * i - 5),
    "captions": _each(lambda i: i // 5),
    # the ids of b may be left out where they are those of a
    "a_ids_alone": lambda n, m, _: (torch.arange(n) // 2, torch.arange(m) // 2 if m != n else None),
    "one_group": _each(lambda i: torch.full_like(i, 7)),
    "some_without_positive": _some_without,
    "no_positives": lambda n, m, _: (torch.arange(n), torch.arange(m) + n),
    "scattered_ids": lambda n, m, g: [x.int() for x in _drawn(max(n, m) // 3 + 1, n, m, g)],
    "far_ids": lambda n, m, g: [_FAR[x] for x in _drawn(len(_FAR), n, m, g)],
}
