"""What a calibration holds, fitted to the scores of a split: its pairs, and results among fewer.

Shapes: N scores, G quantiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from contrastive.errors import DataError
from contrastive.evaluation.logistic_fit import fit_logistic, fit_offset, fit_part
from contrastive.model.calibration_file import Growth, PairFit, ResultFit, SearchFit, SizeFit

if TYPE_CHECKING:
    from contrastive.evaluation.result_scores import DirectionScores

FEWEST = 20  # right pairs: a slope of fewer says nothing
FEW = 100  # of which a line is said
KEPT = 100  # quantiles of scores
LINE = 3  # numbers of wrong targets, a factor of two apart, that say how it goes on


def pair_fits(found: dict[str, DirectionScores], notes: list[str]) -> dict[str, PairFit]:
    """Fit the pairs of each two modalities; both directions have the same."""
    fits: dict[str, PairFit] = {}
    for direction, scores in found.items():
        a, _, b = direction.partition("_to_")
        if f"{b}_{a}" in fits:
            continue
        right, wrong = scores.right_R, scores.wrong_W
        if len(right) < FEWEST:
            msg = (
                f"{len(right)} matched pairs of {a} and {b} are too few to calibrate on; give a "
                f"split with {FEWEST} at least, and better some hundreds"
            )
            raise DataError(msg)
        if len(right) < FEW:
            notes.append(f"{len(right)} matched pairs are few: with some hundreds it holds better")
        weights = np.concatenate(
            [np.ones(len(right)), np.full(len(wrong), len(right) / len(wrong))]
        )
        is_right = np.arange(len(weights)) < len(right)
        fit = fit_logistic(np.concatenate([right, wrong]), is_right, weights)
        if fit.slope <= 0:
            msg = (
                f"matched pairs of {a} and {b} score no higher than others, so that scores say "
                "nothing; train longer, or see what is wrong: contrastive doctor"
            )
            raise DataError(msg)
        if fit.separable:
            notes.append(
                f"every matched pair of {a} and {b} scores higher than all others, so that their "
                "probabilities are a guess; a larger split has some that do not"
            )
        fits[f"{a}_{b}"] = PairFit(
            slope=fit.slope, offset=fit.offset, right=len(right), wrong=len(wrong)
        )
    return fits


def search_fit(scores: DirectionScores) -> SearchFit:
    """Fit the results of one direction, among all targets and among fewer and fewer."""
    groups = len(np.unique(scores.groups_Q))
    by_size = {one.wrong_targets: one for one in reversed(scores.results)}
    best = [(n, one.best_Q, one.is_right_Q) for n, one in by_size.items()]
    further = [(n, one.further, one.further_is_right) for n, one in by_size.items()]
    return SearchFit(
        queries=len(scores.groups_Q),
        targets=scores.targets,
        right_targets=scores.right_targets,
        sizes=[
            SizeFit(
                wrong_targets=n,
                best=_result_fit(one.best_Q, one.is_right_Q, groups),
                further=_result_fit(one.further, one.further_is_right, groups),
            )
            for n, one in by_size.items()
        ],
        best_growth=_growth(best),
        further_growth=_growth(further),
    )


def background_part(scores: DirectionScores, near_Q: np.ndarray) -> float:
    """Return which part of its nearness to a background is taken from a query's scores.

    It is what best tells true hits from the best results of queries whose answers are taken away.
    """
    is_right_Q = scores.all.is_right_Q
    if is_right_Q.sum() < FEWEST:
        return 0.0
    best = np.concatenate([scores.all.best_Q[is_right_Q], scores.best_wrong_Q])
    near = np.concatenate([near_Q[is_right_Q], near_Q])
    return fit_part(best, near, np.arange(len(best)) < is_right_Q.sum())


def _growth(by_size: list[tuple[int, np.ndarray, np.ndarray]]) -> Growth:
    """Return what more wrong targets do, by the line through the largest numbers of them."""
    largest = by_size[-LINE:]
    if len(largest) == 1:
        return Growth(odds=1.0, score=0.0)  # as if wrong ones were independent
    slope = max(0.0, fit_logistic(*largest[-1][1:]).slope)
    logs = np.log([n for n, _, _ in largest])
    offsets = [fit_offset(scores_N, is_right_N, slope) for _, scores_N, is_right_N in largest]
    means = [scores_N.mean() for _, scores_N, _ in largest]
    odds, score = (float(np.polyfit(logs, each, 1)[0]) for each in (offsets, means))
    return Growth(odds=max(0.0, -odds), score=score)


def _result_fit(scores_N: np.ndarray, is_right_N: np.ndarray, groups: int) -> ResultFit:
    """Fit the probability of results; a higher score never makes it lower.

    Results of one group are taken for one, as far as what is known for sure goes.
    """
    fit = fit_logistic(scores_N, is_right_N)
    slope, offset, covariance_22 = fit.slope, fit.offset, fit.covariance_22
    if slope < 0:
        right = (is_right_N.sum() + 1) / (len(is_right_N) + 2)
        slope, offset = 0.0, float(np.log(right / (1 - right)))
        covariance_22 = np.diag([0.0, 1 / (len(is_right_N) * right * (1 - right))])
    variance = covariance_22 * max(1.0, len(scores_N) / groups)
    return ResultFit(
        slope=slope,
        offset=offset,
        scores=_quantiles(scores_N),
        variance=[variance[0, 0].item(), variance[0, 1].item(), variance[1, 1].item()],
    )


def _quantiles(scores_N: np.ndarray) -> list[float]:
    """Return quantiles from the lowest on, evenly spaced."""
    return np.quantile(scores_N, (np.arange(KEPT) + 0.5) / KEPT).round(6).tolist()
