"""Near duplicates and outliers among vectors, each compared with all others.

Shapes: Q and N vectors, P pairs, K nearest, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.config.arguments import number
from contrastive.console import bar
from contrastive.indexes.exact import QUERIES, Items, rounding_error, scores_of_pairs, top_k

if TYPE_CHECKING:
    from collections.abc import Iterator

NEAREST = 10  # others, whose mean cosine tells an outlier


def pairs_above(items: Items, least: float, most: int) -> list[tuple[float, int, int]]:
    """Return the nearest pairs: cosine of at least ``least``, and both numbers; best first.

    Raises:
        SpecError: ``least`` is no cosine.
    """
    what = "from -1 to 1, such as 0.95"
    least = number("least (--duplicates)", least, least=-1, most=1, what=what)
    kept: list[tuple[float, int, int]] = []
    floor = least
    for numbers_Q, queries_QD in _blocks(items, "comparing"):
        for first, at_N, scores_QN in items.scores(queries_QD):
            numbers_N = first + (torch.arange(scores_QN.shape[1]) if at_N is None else at_N)
            near = scores_QN >= floor - 2 * rounding_error(queries_QD)
            near &= numbers_N[None] > numbers_Q[:, None]
            which_P, other_P = near.nonzero(as_tuple=True)
            if not len(which_P):
                continue
            exact_P = scores_of_pairs(queries_QD, items, which_P, numbers_N[other_P])
            pairs_P = exact_P, numbers_Q[which_P], numbers_N[other_P]
            found = zip(*map(_listed, pairs_P), strict=True)
            kept += [pair for pair in found if pair[0] >= floor]
            if len(kept) > most:
                kept.sort(key=_order)
                del kept[most:]
                floor = max(floor, kept[-1][0])
    return sorted(kept, key=_order)


def _order(pair: tuple[float, int, int]) -> tuple[float, int, int]:
    return -pair[0], pair[1], pair[2]


def loneliest(items: Items, most: int) -> list[tuple[float, int]]:
    """Return the mean cosine with the ten nearest others, and the number, of the farthest."""
    found: list[tuple[float, int]] = []
    for numbers_Q, queries_QD in _blocks(items, "looking for outliers"):
        scores_QK, numbers_QK = top_k(queries_QD, items, NEAREST + 1)
        several = numbers_Q, scores_QK, numbers_QK
        for i, scores, numbers in zip(*map(_listed, several), strict=True):
            others = [x for x, other in zip(scores, numbers, strict=True) if other != i]
            if others := others[:NEAREST]:
                found.append((sum(others) / len(others), i))
    return sorted(found)[:most]


def _listed(tensor: Tensor) -> list[Any]:
    return cast("Any", tensor).tolist()


def _blocks(items: Items, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the numbers and the vectors of those that may be found."""
    numbers = torch.cat([*items.numbers()])
    with bar(what, len(numbers)) as advance:
        for start in range(0, len(numbers), QUERIES):
            some = numbers[start : start + QUERIES]
            yield some, items.rows(some).float()
            advance(len(some), "")
