"""Bootstrap confidence intervals over groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


PARTS = 20  # drawn one after the other, so that memory is bounded


@dataclass(frozen=True)
class Estimate:
    """A share, with its 95 % bootstrap interval and what guessing would give."""

    value: float
    low: float
    high: float
    chance: float


def bootstrap(hits: np.ndarray, groups: np.ndarray, chance: float) -> Estimate:
    """Mean of ``hits``, and the interval of means when whole groups are drawn again.

    Five captions of an image are not five independent observations: the image is what is drawn.
    """
    _, group = np.unique(groups, return_inverse=True)
    size = np.bincount(group).astype(float)
    total = np.bincount(group, weights=hits.astype(float))
    random = np.random.default_rng(0)
    means = [
        total[drawn].sum(1) / size[drawn].sum(1)
        for drawn in (
            random.integers(len(size), size=(RESAMPLES // PARTS, len(size))) for _ in range(PARTS)
        )
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Estimate(float(hits.mean()), float(low), float(high), chance)
