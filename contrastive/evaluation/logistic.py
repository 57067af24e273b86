"""Logistic regression on fixed features, its regularisation chosen on a validation part.

This is the linear probe of CLIP (Radford et al. 2021, arXiv:2103.00020, appendix A.3): L-BFGS, at
most 1,000 iterations, and a search over 97 strengths from 1e-6 to 1e6 that halves the interval
around the best one. What is searched is scikit-learn's ``C``, the inverse of the strength.

Shapes: N training samples, V validation samples, Q queries, F features, K classes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from contrastive.config.extras import require

if TYPE_CHECKING:
    from contrastive.evaluation.labelled_splits import LabelledFeatures

ITERATIONS = 1000
STEPS = 8  # a decade
GRID = tuple(10 ** (-6 + step / STEPS) for step in range(12 * STEPS + 1))
COARSE = 16  # two decades: the first look at the grid


def fit_and_score(
    train: LabelledFeatures, queries_QF: np.ndarray, *, C: float, classes: int
) -> np.ndarray:
    """Return log probabilities ``[Q, K]``; a class without training samples has ``-inf``.

    Features are centred and divided by one number, so that those of training have a
    standard deviation of 1 on average. Neither changes what can be fitted, but ``C`` means the same
    for features of any scale, and L-BFGS needs fewer iterations.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    linear = require("sklearn.linear_model", extra="probe")
    centre_F = train.features_NF.mean(0, dtype=np.float64)
    scale = float(train.features_NF.std(0, dtype=np.float64).mean()) or 1.0
    regression = linear.LogisticRegression(C=C, max_iter=ITERATIONS)
    with warnings.catch_warnings(action="ignore"):  # of the limit, which is part of the definition
        regression.fit((train.features_NF - centre_F) / scale, train.truth_N)
        found = regression.predict_log_proba((queries_QF - centre_F) / scale)
    scores_QK = np.full((len(queries_QF), classes), -np.inf)
    scores_QK[:, regression.classes_] = found
    return scores_QK


def choose_strength(
    train: LabelledFeatures, validation: LabelledFeatures, *, classes: int
) -> float:
    """Return the ``C`` of the grid that classifies the validation part best.

    Of equal accuracies the one with the smaller log loss wins, then the smaller ``C``.
    """
    found: dict[int, tuple[float, float]] = {}

    def quality(index: int) -> tuple[float, float]:
        if index not in found:
            scores_VK = fit_and_score(train, validation.features_NF, C=GRID[index], classes=classes)
            right_V = scores_VK[np.arange(len(scores_VK)), validation.truth_N]
            accuracy = float((scores_VK.argmax(1) == validation.truth_N).mean())
            found[index] = accuracy, float(right_V.mean())
        return found[index]

    step = COARSE
    best = max(range(0, len(GRID), step), key=quality)
    while step > 1:
        step //= 2
        near = [index for index in (best - step, best, best + step) if 0 <= index < len(GRID)]
        best = max(near, key=quality)
    return GRID[best]
