"""Whether probabilities hold: expected calibration error, and what rejects absent things.

Shapes: N probabilities, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contrastive.errors import DataError

BINS = 10
SIMULATED = 200  # draws of answers, of which the mean is steady to 0.001
LOST = 0.05  # of the true hits, at the point that is told


@dataclass(frozen=True)
class Bin:
    """Pairs of similar probability, for a reliability plot."""

    probability: float
    """Mean of what was said."""
    share: float
    """Of them that is right."""
    pairs: int


@dataclass(frozen=True)
class Reliability:
    """Whether pairs that are right with a probability are so as often."""

    error: float
    """Expected calibration error: over bins of equally many pairs, the mean distance of the share
    that is right from the mean probability (Naeini et al. 2015; Nguyen and O'Connor 2015)."""
    of_perfect: float
    """The same, of a perfect score with these probabilities: more than 0, since pairs are few."""
    bins: list[Bin]
    pairs: int


def reliability(
    probabilities_N: np.ndarray, is_right_N: np.ndarray, *, bins: int = BINS
) -> Reliability:
    """Return the expected calibration error, with that of answers drawn by the probabilities.

    Raises:
        DataError: there are fewer pairs than bins.
    """
    if len(probabilities_N) < bins:
        msg = f"{len(probabilities_N)} pairs are too few for {bins} bins; give more"
        raise DataError(msg)
    order = np.argsort(probabilities_N, kind="stable")
    parts = np.array_split(order, bins)
    sorted_N = probabilities_N[order]
    random = np.random.default_rng(0)
    drawn = [
        _error(sorted_N, random.random(len(sorted_N)) < sorted_N, bins) for _ in range(SIMULATED)
    ]
    return Reliability(
        _error(sorted_N, is_right_N[order], bins),
        float(np.mean(drawn)),
        [
            Bin(float(probabilities_N[at].mean()), float(is_right_N[at].mean()), len(at))
            for at in parts
        ],
        len(order),
    )


def _error(sorted_N: np.ndarray, is_right_N: np.ndarray, bins: int) -> float:
    said = np.array_split(sorted_N, bins)
    found = np.array_split(is_right_N, bins)
    return float(
        sum(len(p) * abs(p.mean() - y.mean()) for p, y in zip(said, found, strict=True))
        / len(sorted_N)
    )


@dataclass(frozen=True)
class Rejection:
    """How well a threshold tells queries without an answer from true hits."""

    area: float
    """Probability that the best result of a true hit scores higher than that of a query whose right
    answers were taken away; half for equal scores."""
    score: float
    """At which the share ``lost`` of the true hits is lost."""
    lost: float
    rejected: float
    """Share of the queries without an answer whose best result is below ``score``."""
    hits: int
    absent: int
    curve: list[tuple[float, float, float]]
    """Thresholds, with the share of true hits lost and of queries without an answer rejected."""


def rejection(hits_N: np.ndarray, absent_N: np.ndarray, *, points: int = 100) -> Rejection:
    """Return the curve over thresholds, its area, and the point where 5 % of true hits are lost.

    Args:
        hits_N: scores of the best results that are right.
        absent_N: scores of the best results of queries whose right answers were taken away.
        points: thresholds of the curve.

    Raises:
        DataError: there is no true hit.
    """
    if not len(hits_N):
        msg = "no query has a right best result, so that there is nothing to tell from absent ones"
        raise DataError(msg)
    hits, absent = np.sort(hits_N), np.sort(absent_N)
    below = np.searchsorted(absent, hits, side="left")
    up_to = np.searchsorted(absent, hits, side="right")
    score = float(hits[int(LOST * len(hits))])
    levels = np.unique(np.quantile(np.concatenate([hits, absent]), np.linspace(0, 1, points)))

    def shares(at: float) -> tuple[float, float]:
        return (
            float(np.searchsorted(hits, at) / len(hits)),
            float(np.searchsorted(absent, at) / len(absent)),
        )

    return Rejection(
        area=float((below + up_to).mean() / 2 / len(absent)),
        score=score,
        lost=shares(score)[0],
        rejected=shares(score)[1],
        hits=len(hits),
        absent=len(absent),
        curve=[(float(at), *shares(float(at))) for at in levels],
    )
