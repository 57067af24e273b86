"""Logistic regression on one number: how probable a yes is at a score.

The probability is ``1 / (1 + exp(-(slope * score + offset)))``, fitted by maximum likelihood with
Newton's method in float64. Where a threshold separates yes from no, or there is only one of them,
the likelihood has no maximum; then each answer counts as Platt's (1999) smoothed one, which is what
a uniform prior leaves of it.

Shapes: N scores, 2 for slope and offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_STEPS = 100  # a handful is usual
HALVINGS = 40  # of a step that goes too far
CONVERGED = 1e-10  # of the standardised slope and offset


@dataclass(frozen=True)
class LogisticFit:
    """What was fitted."""

    slope: float
    offset: float
    separable: bool
    """A threshold separates yes from no, or there is only one of them."""
    covariance_22: np.ndarray
    """Of the estimates of slope and offset, by the curvature of the likelihood."""


def fit_logistic(
    scores_N: np.ndarray, yes_N: np.ndarray, weights_N: np.ndarray | None = None
) -> LogisticFit:
    """Return the slope and the offset of the log odds of a yes.

    Args:
        scores_N: finite numbers.
        yes_N: of bool.
        weights_N: how often each counts; once if None.
    """
    scores_N, yes_N = np.asarray(scores_N, np.float64), np.asarray(yes_N, np.bool_)
    weights_N = np.ones(len(scores_N)) if weights_N is None else np.asarray(weights_N, np.float64)
    centre = float(np.average(scores_N, weights=weights_N))
    spread = float(np.sqrt(np.average((scores_N - centre) ** 2, weights=weights_N))) or 1.0
    inputs_N2 = np.stack([(scores_N - centre) / spread, np.ones(len(scores_N))], axis=1)
    separable = _is_separable(scores_N, yes_N)
    targets_N = yes_N.astype(np.float64)
    if separable:
        yes, no = float(weights_N[yes_N].sum()), float(weights_N[~yes_N].sum())
        targets_N = np.where(yes_N, (yes + 1) / (yes + 2), 1 / (no + 2))
    found_2 = _newton(inputs_N2, targets_N, weights_N)
    covariance_22 = np.linalg.pinv(_hessian(inputs_N2, _sigmoid(inputs_N2 @ found_2), weights_N))
    back_22 = np.array([[1 / spread, 0.0], [-centre / spread, 1.0]])  # to scores as they are
    slope, offset = (back_22 @ found_2).tolist()
    return LogisticFit(slope, offset, separable, back_22 @ covariance_22 @ back_22.T)


def fit_part(taken_from_N: np.ndarray, taken_N: np.ndarray, yes_N: np.ndarray) -> float:
    """Return which part of the second score to take from the first, so that yes and no differ most.

    It is that of a logistic regression on both, in which all yes weigh as much as all no; 0, if
    the second is better added, or the first says nothing.
    """
    inputs_N2 = np.stack([taken_from_N, taken_N], axis=1)
    spread_2 = inputs_N2.std(0)
    if not spread_2.all():
        return 0.0
    inputs_N2 = (inputs_N2 - inputs_N2.mean(0)) / spread_2
    yes, no = float(yes_N.sum()), float((~yes_N).sum())
    weights_N = np.where(yes_N, 0.5 / yes, 0.5 / no)
    ones_N1 = np.ones((len(inputs_N2), 1))
    found = _newton(np.concatenate([inputs_N2, ones_N1], 1), yes_N.astype(np.float64), weights_N)
    first, second = (found[:2] / spread_2).tolist()
    return max(0.0, -second / first) if first > 0 else 0.0


def fit_offset(scores_N: np.ndarray, yes_N: np.ndarray, slope: float) -> float:
    """Return the offset at which as many yes are expected as there are, by bisection."""
    share = (yes_N.sum() + 0.5) / (len(yes_N) + 1)
    logits_N = slope * scores_N
    low, high = (-float(np.abs(logits_N).max()) - 50) * np.array([1, -1])
    for _ in range(100):
        middle = (low + high) / 2
        expected = np.exp(-np.logaddexp(0, -(logits_N + middle))).mean()
        low, high = (middle, high) if expected < share else (low, middle)
    return float((low + high) / 2)


def _is_separable(scores_N: np.ndarray, yes_N: np.ndarray) -> bool:
    """Whether a threshold has all yes on one side and all no on the other, ties left aside."""
    if yes_N.all() or not yes_N.any():
        return True
    yes, no = scores_N[yes_N], scores_N[~yes_N]
    return bool(yes.min() >= no.max() or yes.max() <= no.min())


def _newton(inputs_N2: np.ndarray, targets_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    """Return the weights ``[2]`` of greatest likelihood; a step that makes it worse is halved."""
    found_2 = np.zeros(inputs_N2.shape[1])
    loss = _loss(inputs_N2 @ found_2, targets_N, weights_N)
    for _ in range(MOST_STEPS):
        probability_N = _sigmoid(inputs_N2 @ found_2)
        gradient_2 = inputs_N2.T @ (weights_N * (probability_N - targets_N))
        # of equal scores, the slope is free: it stays 0
        hessian_22 = _hessian(inputs_N2, probability_N, weights_N)
        step_2 = np.linalg.lstsq(hessian_22, gradient_2, rcond=1e-12)[0]
        for _ in range(HALVINGS):
            tried = _loss(inputs_N2 @ (found_2 - step_2), targets_N, weights_N)
            if tried <= loss:
                break
            step_2 = step_2 / 2
        else:
            break
        found_2, loss = found_2 - step_2, tried
        if np.abs(step_2).max() < CONVERGED:
            break
    return found_2


def _hessian(inputs_N2: np.ndarray, probability_N: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
    curvature_N = weights_N * probability_N * (1 - probability_N)
    return (inputs_N2 * curvature_N[:, None]).T @ inputs_N2


def _sigmoid(logits_N: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits_N))


def _loss(logits_N: np.ndarray, targets_N: np.ndarray, weights_N: np.ndarray) -> float:
    return float(weights_N @ (np.logaddexp(0, logits_N) - targets_N * logits_N))
