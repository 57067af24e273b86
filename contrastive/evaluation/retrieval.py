"""Recall at k by the any-hit rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.config import arguments
from contrastive.data.samples import group_numbers, id_list
from contrastive.errors import DataError
from contrastive.evaluation.intervals import Estimate, bootstrap
from contrastive.nn.embeddings import embedding_sides

if TYPE_CHECKING:
    from collections.abc import Sequence

KS = (1, 5, 10)
CHUNK_BYTES = 16 << 20  # of scores at a time


@dataclass(frozen=True)
class Direction:
    """Retrieval of one modality by another."""

    recall: dict[int, Estimate]
    """By k."""
    median_rank: float
    """1 is perfect."""
    queries: int
    targets: int


def recall(
    queries: Tensor | np.ndarray,
    targets: Tensor | np.ndarray,
    query_ids: Tensor | Sequence[int] | Sequence[str] | None = None,
    target_ids: Tensor | Sequence[int] | Sequence[str] | None = None,
    *,
    ks: Sequence[int] = KS,
) -> Direction:
    """Return recall at each k and the median rank, by the any-hit rule.

    The rank of a query is 1 plus the number of wrong targets that score at least as high as its
    best right one. Queries without a right target are left out. Where ``queries`` is ``targets``,
    the same object, no query is its own target.

    Args:
        queries: ``[Q, D]``, L2-normalised.
        targets: ``[T, D]``, L2-normalised.
        query_ids: ``[Q]`` group ids: a target is right if it has the query's; without ids, row i
            belongs to row i.
        target_ids: ``[T]`` group ids; those of the queries if None.
        ks: how many targets are looked at.

    Raises:
        DataError: an embedding is not finite, no query has a right target, or the ids are not as
            many as the rows.
    """
    same = queries is targets
    ks = arguments.counts("ks", ks)
    queries_QD, targets_TD = embedding_sides(queries=queries, targets=targets)
    ids_Q, ids_T = _ids(len(queries_QD), len(targets_TD), query_ids, target_ids)
    ranks, positives = _ranks(queries_QD, targets_TD, ids_Q, ids_T, same=same)
    asked = positives > 0
    if not asked.any():
        msg = "no query has a right answer among the targets; are the group ids right?"
        raise DataError(msg)
    among = len(ids_T) - same
    groups = ids_Q.numpy()[asked]
    # few different numbers of positives among many queries: the chance of each is computed once
    counts, times = np.unique(positives[asked], return_counts=True)
    estimates: dict[int, Estimate] = {}
    for k in ks:
        chance = float(np.average([_chance(n, among, k) for n in counts], weights=times))
        estimates[k] = bootstrap(ranks[asked] <= k, groups, chance)
    median = float(np.median(ranks[asked]))
    return Direction(estimates, median, int(asked.sum()), among)


def _ids(queries: int, targets: int, query_ids: Any, target_ids: Any) -> tuple[Tensor, Tensor]:
    """Return the group ids ``[Q]`` and ``[T]`` as integers."""
    if not (queries and targets):
        msg = f"there are {queries} queries and {targets} targets; give some of both"
        raise DataError(msg)
    if query_ids is None and target_ids is None and queries != targets:
        msg = f"{queries} queries and {targets} targets; give query_ids and target_ids"
        raise DataError(msg)
    of_queries = range(queries) if query_ids is None else id_list(query_ids)
    of_targets = of_queries if target_ids is None else id_list(target_ids)
    for what, ids, rows in (("query", of_queries, queries), ("target", of_targets, targets)):
        if len(ids) != rows:
            msg = f"{rows} rows of embeddings have {len(ids)} {what}_ids; give one for each"
            raise DataError(msg)
    ids = torch.tensor(group_numbers([*of_queries, *of_targets]))
    return ids[:queries], ids[queries:]


def has_companions(ids: Tensor) -> bool:
    """Whether some sample has another of its group, so that it can be asked for."""
    return len(set(cast("list[int]", ids.tolist()))) < len(ids)


def _ranks(
    queries_QD: Tensor, targets_TD: Tensor, ids_Q: Tensor, ids_T: Tensor, *, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank ``[Q]`` of each query's best right target, and how many right ones it has."""
    target_DT = targets_TD.float().T
    chunk = max(1, CHUNK_BYTES // (4 * target_DT.shape[1]))
    ordered_T, order_T = ids_T.sort()
    ranks: list[Tensor] = []
    positives: list[Tensor] = []
    for start in range(0, len(ids_Q), chunk):
        scores_QT = queries_QD[start : start + chunk].float() @ target_DT
        i_P, j_P = _right_pairs(ids_Q[start : start + chunk], ordered_T, order_T)
        if same:
            itself = torch.arange(len(scores_QT))
            scores_QT[itself, start + itself] = -torch.inf
            other_P = j_P != start + i_P
            i_P, j_P = i_P[other_P], j_P[other_P]
        right_P = scores_QT[i_P, j_P]
        best_Q = scores_QT.new_full((len(scores_QT),), -torch.inf)
        best_Q.scatter_reduce_(0, i_P, right_P, "amax")
        right_Q = i_P[right_P == best_Q[i_P]].bincount(minlength=len(best_Q))
        ranks.append(1 + (scores_QT >= best_Q[:, None]).sum(1) - right_Q)
        positives.append(i_P.bincount(minlength=len(best_Q)))
    return torch.cat(ranks).numpy(), torch.cat(positives).numpy()


def _right_pairs(ids_Q: Tensor, ordered_T: Tensor, order_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of a query and a target with its id, given the ids of targets in order."""
    first_Q = torch.searchsorted(ordered_T, ids_Q)
    count_Q = torch.searchsorted(ordered_T, ids_Q, right=True) - first_Q
    i_P = torch.arange(len(ids_Q)).repeat_interleave(count_Q)
    before_Q = count_Q.cumsum(0) - count_Q
    return i_P, order_T[torch.arange(len(i_P)) + (first_Q - before_Q)[i_P]]


def _chance(positives: int, targets: int, k: int) -> float:
    """Probability that k targets drawn at random hold one of the right ones."""
    if targets - positives < k:
        return 1.0
    missed = math.comb(targets - int(positives), k) / math.comb(targets, k)
    return 1.0 - missed
