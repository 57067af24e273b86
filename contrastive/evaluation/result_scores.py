"""The scores of right and wrong results when every sample asks for those of another modality.

How often the best result is right depends on how many wrong ones there are, so each query is also
asked among fewer of them: its right targets and a random half, quarter and so on of its wrong ones.

Shapes: Q queries, T targets, D the shared width, k results, R right pairs, W wrong pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import DataError
from contrastive.evaluation.retrieval import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.inference.embed_distinct import EmbeddedModality

    Scorer = Callable[[Tensor, Tensor], Tensor]
    """Scores ``[Q, T]`` of queries with targets."""

FURTHER = 9  # results after the best one: those of a search with the usual k
MOST_WRONG = 1_000_000  # pairs that are kept: evenly spaced ones of those that there are


@dataclass(frozen=True)
class ResultScores:
    """What searches among so many wrong targets bring back."""

    wrong_targets: int
    best_Q: np.ndarray
    """Score of the best result."""
    is_right_Q: np.ndarray
    """Whether it is right; a wrong one with the same score counts first."""
    further: np.ndarray
    """Scores of the results after the best one."""
    further_is_right: np.ndarray


@dataclass(frozen=True)
class DirectionScores:
    """Of one direction; queries without a right or a wrong target are left out."""

    results: list[ResultScores]
    """Among all targets, then among fewer and fewer of the wrong ones."""
    best_wrong_Q: np.ndarray
    """Score of the best wrong result: the best one if the right ones were not there."""
    groups_Q: np.ndarray
    """Of the queries."""
    asked_Q: np.ndarray
    """Their places among those that were embedded."""
    targets: int
    right_targets: float
    """Of a query, on average."""
    right_R: np.ndarray
    """Scores of all right pairs."""
    wrong_W: np.ndarray
    """Scores of wrong pairs, all or evenly spaced ones."""

    @property
    def all(self) -> ResultScores:
        """The results among all targets."""
        return self.results[0]


def direction_scores(
    queries: EmbeddedModality, targets: EmbeddedModality, scorer: Scorer, *, fewer: bool = True
) -> DirectionScores:
    """Score every query with every target; of one modality, no query is its own target.

    Args:
        queries: embedded.
        targets: embedded; those of the queries' groups are right.
        scorer: scores of some queries.
        fewer: also search among fewer wrong targets.

    Raises:
        DataError: no query has a right and a wrong target.
    """
    same = queries is targets
    ids_T = targets.ids_Q
    chunk = max(1, CHUNK_BYTES // (8 * len(ids_T)))
    step = max(1, len(queries.ids_Q) * len(ids_T) // MOST_WRONG)
    sizes = [len(ids_T)]
    while fewer and sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    random = torch.Generator().manual_seed(0)
    found: list[list[np.ndarray]] = []
    for start in range(0, len(queries.ids_Q), chunk):
        at = slice(start, start + chunk)
        scores_QT = scorer(queries.embeddings_QD[at], targets.embeddings_QD).double()
        is_right_QT = queries.ids_Q[at, None] == ids_T
        is_wrong_QT = ~is_right_QT
        if same:
            itself = torch.arange(len(scores_QT))
            is_right_QT[itself, start + itself] = False
        asked_Q = is_right_QT.any(1) & is_wrong_QT.any(1)
        scores_QT, is_right_QT = scores_QT[asked_Q], is_right_QT[asked_Q]
        is_wrong_QT = is_wrong_QT[asked_Q]
        keys_QT = torch.rand(scores_QT.shape, generator=random, dtype=torch.float64)
        piece = _of_chunk(scores_QT, is_right_QT, is_wrong_QT, keys_QT, sizes, step)
        asked: np.ndarray = asked_Q.numpy()
        found.append([*piece, asked])
    parts = [np.concatenate(each) for each in zip(*found, strict=True)]
    *results, right_R, wrong_W, wrong_Q, counts_Q, asked_Q = parts
    if not asked_Q.any():
        msg = "no query has a right and a wrong answer among the targets; are the group ids right?"
        raise DataError(msg)
    right = float(counts_Q.mean())
    there = len(ids_T) - same
    wrong = max(1, round(there - right))
    return DirectionScores(
        [
            ResultScores(min(size, wrong), *results[4 * i : 4 * i + 4])
            for i, size in enumerate(sizes)
        ],
        best_wrong_Q=wrong_Q,
        groups_Q=queries.ids_Q.numpy()[asked_Q],
        asked_Q=asked_Q.nonzero()[0],
        targets=there,
        right_targets=right,
        right_R=right_R,
        wrong_W=wrong_W,
    )


def _of_chunk(
    scores_QT: Tensor,
    is_right_QT: Tensor,
    is_wrong_QT: Tensor,
    keys_QT: Tensor,
    sizes: list[int],
    step: int,
) -> list[np.ndarray]:
    """Return four arrays for each size, then right and wrong scores, best wrong ones and counts."""
    found: list[Tensor] = []
    right_Q = scores_QT.masked_fill(~is_right_QT, -torch.inf).amax(1)
    order_QT = keys_QT.masked_fill(~is_wrong_QT, 2).argsort(1)
    place_QT = torch.empty_like(order_QT)
    place_QT.scatter_(1, order_QT, torch.arange(order_QT.shape[1]).expand_as(order_QT))
    best_wrong_Q = scores_QT.masked_fill(~is_wrong_QT, -torch.inf).amax(1)
    for size in sizes:
        is_there_QT = is_right_QT | (is_wrong_QT & (place_QT < size))
        among_QT = scores_QT.masked_fill(~is_there_QT, -torch.inf)
        wrong_Q = among_QT.masked_fill(is_right_QT, -torch.inf).amax(1)
        top_Qk, at_Qk = among_QT.topk(min(FURTHER + 1, among_QT.shape[1]), dim=1)
        there_Qk = top_Qk[:, 1:].isfinite()
        found += [
            torch.maximum(right_Q, wrong_Q),
            right_Q > wrong_Q,
            top_Qk[:, 1:][there_Qk],
            is_right_QT.gather(1, at_Qk)[:, 1:][there_Qk],
        ]
    found += [scores_QT[is_right_QT], scores_QT[is_wrong_QT][::step]]
    found += [best_wrong_Q, is_right_QT.sum(1)]
    return [each.numpy() for each in found]
