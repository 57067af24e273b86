"""Few combinations of many settings, in which any two (or more) settings still meet."""

from __future__ import annotations

import random
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIES = 20  # rows looked at for each that is taken; more make the suite hardly smaller


def covering_array(axes: Sequence[Sequence[Any]], strength: int) -> list[tuple[Any, ...]]:
    """Return rows, one value of each axis in each, with all combinations of ``strength`` axes."""
    dice = random.Random(0)  # noqa: S311 - it chooses cases, not secrets
    subsets = list(combinations(range(len(axes)), min(strength, len(axes))))
    everything = [(p, x) for p in subsets for x in product(*(axes[i] for i in p))]
    missing, rows = set(everything), list[tuple[Any, ...]]()

    def parts(row: tuple[Any, ...]) -> set[Any]:
        return {(p, tuple(row[i] for i in p)) for p in subsets} & missing

    def complete(p: tuple[int, ...], values: tuple[Any, ...]) -> tuple[Any, ...]:
        given = dict(zip(p, values, strict=True))
        return tuple(given.get(i) if i in given else dice.choice(x) for i, x in enumerate(axes))

    for combination in dice.sample(everything, len(everything)):
        if combination in missing:
            row = max((complete(*combination) for _ in range(TRIES)), key=lambda x: len(parts(x)))
            missing -= parts(row)
            rows.append(row)
    return rows
