"""Exact nearest neighbours by cosine, among vectors that lie in one or several pieces.

Shapes: Q queries, N items of all pieces, M of one piece, D wide, P pairs of a query and an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUERIES = 256  # at a time
SCORES_BYTES = 16 << 20  # of scores at a time
PAIRS_BYTES = 64 << 20  # of rows at a time, whose scores are taken again
SPARE = 8  # candidates beyond k: the order of scores in fp32 is not quite that of exact ones
GATHERED = 4  # where less than a quarter of the items may be found, those are gathered
# by torch.get_float32_matmul_precision: TF32 has 10 bits, bf16 7
ROUNDING = {"high": 2.0**-9, "medium": 2.0**-6}


@dataclass(frozen=True)
class Items:
    """What is searched, L2-normalised."""

    pieces: Sequence[Tensor]
    """Vectors ``[M, D]``."""
    allowed: Sequence[Tensor | None] | None = None
    """Of each piece, which may be found: ``[M]`` booleans; None for all."""

    @cached_property
    def sizes(self) -> list[int]:
        """How many items each piece has."""
        return [len(piece) for piece in self.pieces]

    @cached_property
    def starts(self) -> list[int]:
        """The number of each piece's first item."""
        return [*accumulate(self.sizes[:-1], initial=0)]

    @cached_property
    def count(self) -> int:
        """How many may be found."""
        if self.allowed is None:
            return sum(self.sizes)
        return sum(
            size if mask is None else int(mask.sum())
            for size, mask in zip(self.sizes, self.allowed, strict=True)
        )

    def _with_masks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return zip(self.pieces, self.allowed or [None] * len(self.pieces), strict=True)

    def scores(self, queries_QD: Tensor) -> Iterator[tuple[int, Tensor | None, Tensor]]:
        """Yield scores ``[Q, N]`` with some of the items; -inf for what is not allowed.

        Before them stand the number of the first item, and what is added to it for each; None for
        neighbours.
        """
        step = max(1, SCORES_BYTES // (4 * len(queries_QD)))
        for first, (piece_MD, mask_M) in zip(self.starts, self._with_masks(), strict=True):
            numbers_M = None
            if mask_M is not None and int(mask_M.sum()) * GATHERED < len(mask_M):
                numbers_M, mask_M = mask_M.nonzero()[:, 0], None  # noqa: PLW2901
            many = len(piece_MD) if numbers_M is None else len(numbers_M)
            for start in range(0, many, step):
                stop = min(start + step, many)
                at_N = None if numbers_M is None else numbers_M[start:stop]
                some_ND = piece_MD[start:stop] if at_N is None else piece_MD[at_N]
                scores_QN = queries_QD @ some_ND.float().T
                if mask_M is not None:
                    scores_QN.masked_fill_(~mask_M[start:stop], -torch.inf)
                yield first + (start if at_N is None else 0), at_N, scores_QN

    def numbers(self) -> Iterator[Tensor]:
        """Yield the numbers of those of each piece that may be found."""
        for first, (piece_MD, mask_M) in zip(self.starts, self._with_masks(), strict=True):
            all_M = torch.arange(first, first + len(piece_MD), device=piece_MD.device)
            yield all_M if mask_M is None else all_M[mask_M]

    def rows(self, numbers_P: Tensor) -> Tensor:
        """Return the vectors of some items: ``[P, D]``."""
        if len(self.pieces) == 1:
            return self.pieces[0][numbers_P]
        starts = torch.tensor(self.starts, device=numbers_P.device)
        of_P = torch.searchsorted(starts, numbers_P, right=True) - 1
        found_PD = self.pieces[0].new_empty(len(numbers_P), self.pieces[0].shape[1])
        for piece in cast("list[int]", of_P.unique().tolist()):
            which_P = (of_P == piece).nonzero()[:, 0]
            found_PD[which_P] = self.pieces[piece][numbers_P[which_P] - self.starts[piece]]
        return found_PD


def top_k(queries_QD: Tensor, items: Items, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities, fp32, and numbers ``[Q, min(k, N)]`` of the best items.

    The best come first, equal ones in the order of the items, as a stable sort of float64 scores
    has them. Products in fp32 find candidates, and only these are scored in float64: so neither the
    score of an item nor its place depends on what else is searched. Queries must be L2-normalised.
    """
    k = min(k, items.count)
    if not (k and len(queries_QD)):
        empty = queries_QD.new_empty(len(queries_QD), k, dtype=torch.float32)
        return empty, empty.long()
    found = [
        _top_k(queries_QD[start : start + QUERIES].float(), items, k)
        for start in range(0, len(queries_QD), QUERIES)
    ]
    scores, indices = zip(*found, strict=True)
    return torch.cat(scores), torch.cat(indices)


def _top_k(queries_QD: Tensor, items: Items, k: int) -> tuple[Tensor, Tensor]:
    wanted = min(k + SPARE, items.count)
    blocks = [_best_in(block, wanted) for block in items.scores(queries_QD)]
    scores, indices = (torch.cat(several, 1) for several in zip(*blocks, strict=True))
    scores, at = scores.topk(wanted)
    best, indices = best_of(queries_QD, items, indices.gather(1, at), k)
    if wanted < items.count:  # of items that were left out, some may be as near as the k-th
        least_Q = scores[:, k - 1] - 2 * rounding_error(queries_QD)
        for row_1 in (scores[:, -1] >= least_Q).nonzero():
            at = int(row_1)
            best[at], indices[at] = _all_near(queries_QD[at, None], items, k, least_Q[at])
    return best, indices


def best_of(queries_QD: Tensor, items: Items, numbers_QC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return scores, fp32, and numbers ``[Q, k]`` of the best of candidates, as ``top_k`` does.

    Candidates are numbers ``[Q, C]`` of items, each at most once; -1 is none, and scores -inf.
    """
    if numbers_QC.shape[1] < k:
        numbers_QC = pad(numbers_QC, (0, k - numbers_QC.shape[1]), value=-1)
    if numbers_QC.shape[1] > k + SPARE:
        numbers_QC = numbers_QC.gather(1, _in_fp32(queries_QD, items, numbers_QC, k + SPARE))
    numbers_QC = numbers_QC.sort(1).values
    rows_QC = torch.arange(len(numbers_QC), device=numbers_QC.device)[:, None]
    there = numbers_QC >= 0
    pairs = rows_QC.expand_as(numbers_QC)[there], numbers_QC[there]
    scores_QC = queries_QD.new_full(numbers_QC.shape, -torch.inf, dtype=torch.float64)
    scores_QC[there] = scores_of_pairs(queries_QD, items, *pairs)
    order = scores_QC.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores_QC.gather(1, order).float(), numbers_QC.gather(1, order)


def _in_fp32(queries_QD: Tensor, items: Items, numbers_QC: Tensor, most: int) -> Tensor:
    """Return which candidates score best in fp32: ``[Q, most]``."""
    step = max(1, PAIRS_BYTES // (4 * queries_QD.shape[1] * numbers_QC.shape[1]))
    best: list[Tensor] = []
    for start in range(0, len(queries_QD), step):
        some_QC = numbers_QC[start : start + step]
        rows_QCD = items.rows(some_QC.clamp_min(0).flatten()).view(*some_QC.shape, -1).float()
        scores_QC = (rows_QCD @ queries_QD[start : start + step, :, None])[..., 0]
        scores_QC.masked_fill_(some_QC < 0, -torch.inf)
        best.append(scores_QC.topk(most, dim=1).indices)
    return torch.cat(best)


def _best_in(block: tuple[int, Tensor | None, Tensor], wanted: int) -> tuple[Tensor, Tensor]:
    first, at_N, scores_QN = block
    scores, at = scores_QN.topk(min(wanted, scores_QN.shape[1]))
    return scores, (at if at_N is None else at_N[at]) + first


def _all_near(query_1D: Tensor, items: Items, k: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and numbers ``[k]`` of one query among all items that score at least so."""
    near: list[Tensor] = []
    for first, at_N, scores_1N in items.scores(query_1D):
        at = (scores_1N[0] >= least).nonzero()[:, 0]
        near.append((at if at_N is None else at_N[at]) + first)
    indices = torch.cat(near)
    exact = scores_of_pairs(query_1D, items, torch.zeros_like(indices), indices)
    order = exact.argsort(descending=True, stable=True)[:k]
    return exact[order], indices[order]


def scores_of_pairs(queries_QD: Tensor, items: Items, i_P: Tensor, j_P: Tensor) -> Tensor:
    """Return the scores ``[P]`` of queries i with items j in float64."""
    step = max(1, PAIRS_BYTES // (8 * queries_QD.shape[1]))
    pieces = [slice(start, start + step) for start in range(0, len(i_P), step)]
    return torch.cat(
        [(queries_QD[i_P[at]].double() * items.rows(j_P[at]).double()).sum(1) for at in pieces]
    )


def rounding_error(queries_QD: Tensor) -> float:
    """Return a bound of the rounding of a score in fp32."""
    usual = queries_QD.shape[1] * torch.finfo(torch.float32).eps / 2
    return max(usual, ROUNDING.get(torch.get_float32_matmul_precision(), 0))
