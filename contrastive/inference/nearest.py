"""Exact nearest neighbours by cosine.

Shapes: Q queries, N items, D wide, P pairs of a query and an item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERIES = 256  # at a time
SCORES_BYTES = 16 << 20  # of scores at a time
PAIRS_BYTES = 64 << 20  # of rows at a time, whose scores are taken again
SPARE = 8  # candidates beyond k: the order of scores in fp32 is not quite that of exact ones
# by torch.get_float32_matmul_precision: TF32 has 10 bits, bf16 7
ROUNDING = {"high": 2.0**-9, "medium": 2.0**-6}


def top_k(queries_QD: Tensor, items_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities, fp32, and indices ``[Q, min(k, N)]`` of the best items.

    The best come first, equal ones in the order of the items, as a stable sort of float64 scores
    has them. Products in fp32 find candidates, and only these are scored in float64: so neither the
    score of an item nor its place depends on what else is searched. Both must be L2-normalised.
    """
    k = min(k, len(items_ND))
    if not (k and len(queries_QD)):
        empty = queries_QD.new_empty(len(queries_QD), k, dtype=torch.float32)
        return empty, empty.long()
    found = [
        _top_k(queries_QD[start : start + QUERIES].float(), items_ND, k)
        for start in range(0, len(queries_QD), QUERIES)
    ]
    scores, indices = zip(*found, strict=True)
    return torch.cat(scores), torch.cat(indices)


def _top_k(queries_QD: Tensor, items_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    wanted = min(k + SPARE, len(items_ND))
    scores = queries_QD.new_empty(len(queries_QD), 0)
    indices = scores.long()
    for start, block_QN in _blocks(queries_QD, items_ND):
        found, at = block_QN.topk(min(wanted, block_QN.shape[1]))
        scores, indices = torch.cat([scores, found], 1), torch.cat([indices, at + start], 1)
        if scores.shape[1] > wanted:
            scores, at = scores.topk(wanted)
            indices = indices.gather(1, at)
    indices = indices.sort().values
    rows = torch.arange(len(indices), device=indices.device)[:, None].expand_as(indices)
    exact = _exact(queries_QD, items_ND, rows.flatten(), indices.flatten()).view(indices.shape)
    order = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
    best, indices = exact.gather(1, order), indices.gather(1, order)
    if wanted < len(items_ND):  # of items that were left out, some may be as near as the k-th
        least_Q = scores[:, k - 1] - 2 * _error(queries_QD)
        for row_1 in (scores[:, -1] >= least_Q).nonzero():
            at = int(row_1)
            best[at], indices[at] = _all_near(queries_QD[at, None], items_ND, k, least_Q[at])
    return best.float(), indices


def _all_near(query_1D: Tensor, items_ND: Tensor, k: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and indices ``[k]`` of one query among all items that score at least so."""
    near = [
        (block_1N[0] >= least).nonzero()[:, 0] + start
        for start, block_1N in _blocks(query_1D, items_ND)
    ]
    indices = torch.cat(near)
    exact = _exact(query_1D, items_ND, torch.zeros_like(indices), indices)
    order = exact.argsort(descending=True, stable=True)[:k]
    return exact[order], indices[order]


def _blocks(queries_QD: Tensor, items_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield scores with some of the items, and the index of the first of them."""
    step = max(1, SCORES_BYTES // (4 * len(queries_QD)))
    for start in range(0, len(items_ND), step):
        yield start, queries_QD @ items_ND[start : start + step].float().T


def _exact(queries_QD: Tensor, items_ND: Tensor, i_P: Tensor, j_P: Tensor) -> Tensor:
    """Return the scores ``[P]`` of queries i with items j in float64."""
    step = max(1, PAIRS_BYTES // (8 * queries_QD.shape[1]))
    pieces = [slice(start, start + step) for start in range(0, len(i_P), step)]
    return torch.cat(
        [(queries_QD[i_P[at]].double() * items_ND[j_P[at]].double()).sum(1) for at in pieces]
    )


def _error(queries_QD: Tensor) -> float:
    """Return a bound of the rounding of a score in fp32."""
    usual = queries_QD.shape[1] * torch.finfo(torch.float32).eps / 2
    return max(usual, ROUNDING.get(torch.get_float32_matmul_precision(), 0))
