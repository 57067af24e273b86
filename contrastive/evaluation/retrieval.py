"""Recall at k by the any-hit rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import DataError
from contrastive.evaluation.intervals import Estimate, bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.inference.embed_dataset import EmbeddedModality

KS = (1, 5, 10)


CHUNK_BYTES = 64 << 20  # scores held at a time


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
    queries: EmbeddedModality, targets: EmbeddedModality, *, ks: Sequence[int] = KS
) -> Direction:
    """Return recall at each k and the median rank, by the any-hit rule.

    The rank of a query is 1 plus the number of wrong targets that score at least as high as its
    best right one. Queries without a right target are left out. Within one modality, where queries
    are the targets, no query is its own target.
    """
    ranks, positives = _ranks(queries, targets)
    asked = positives > 0
    if not asked.any():
        msg = "no query has a right answer among the targets; are the group ids right?"
        raise DataError(msg)
    among = len(targets.ids_Q) - (queries is targets)
    groups = queries.ids_Q.numpy()[asked]
    # few different numbers of positives among many queries: the chance of each is computed once
    counts, times = np.unique(positives[asked], return_counts=True)
    estimates: dict[int, Estimate] = {}
    for k in ks:
        chance = float(np.average([_chance(n, among, k) for n in counts], weights=times))
        estimates[k] = bootstrap(ranks[asked] <= k, groups, chance)
    median = float(np.median(ranks[asked]))
    return Direction(estimates, median, int(asked.sum()), among)


def has_companions(column: EmbeddedModality) -> bool:
    """Whether some sample has another of its group, so that it can be asked for."""
    return len(set(cast("list[int]", column.ids_Q.tolist()))) < len(column.ids_Q)


def _ranks(queries: EmbeddedModality, targets: EmbeddedModality) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank ``[Q]`` of each query's best right target, and how many right ones it has."""
    target_DT = targets.embeddings_QD.float().T
    chunk = max(1, CHUNK_BYTES // (4 * max(1, target_DT.shape[1])))
    ranks: list[Tensor] = []
    positives: list[Tensor] = []
    for start in range(0, len(queries.ids_Q), chunk):
        scores_QT = queries.embeddings_QD[start : start + chunk].float() @ target_DT
        right_QT = queries.ids_Q[start : start + chunk, None] == targets.ids_Q[None]
        if queries is targets:
            itself = torch.arange(len(scores_QT))
            right_QT[itself, start + itself] = False
            scores_QT[itself, start + itself] = -torch.inf
        best_Q = scores_QT.masked_fill(~right_QT, -torch.inf).amax(1)
        ranks.append(1 + ((scores_QT >= best_Q[:, None]) & ~right_QT).sum(1))
        positives.append(right_QT.sum(1))
    return torch.cat(ranks).numpy(), torch.cat(positives).numpy()


def _chance(positives: int, targets: int, k: int) -> float:
    """Probability that k targets drawn at random hold one of the right ones."""
    if targets - positives < k:
        return 1.0
    missed = math.comb(targets - int(positives), k) / math.comb(targets, k)
    return 1.0 - missed
