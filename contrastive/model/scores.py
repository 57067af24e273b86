"""What a score is worth: the calibration that a model carries, applied to what is found.

``contrastive calibrate`` fits it (``contrastive.evaluation.calibration``). A cosine says which of
two results is nearer, not whether either is right; that depends on the model, on the data, and on
how many were searched, since the best of many wrong ones is better than the best of a few.

Shapes: Q queries, k results of each, G quantiles, S sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from contrastive.config.arguments import number
from contrastive.console import say
from contrastive.errors import SpecError
from contrastive.model.background import nearness
from contrastive.model.calibration_file import RUN, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.model.calibration_file import Calibrated, Calibration, SearchFit


def calibration_of(model: Calibrated, *, needed: bool = False) -> Calibration | None:
    """Return the calibration of a model, if it is of its weights.

    Args:
        model: the model.
        needed: refuse to go without.

    Raises:
        SpecError: it is needed, and there is none of these weights.
    """
    found = model.calibration
    if found is None:
        problem = "the model has no calibration"
    elif found.weights != weights_of(model):
        problem = "the calibration is of other weights than the model has now"
        found = None
    else:
        return found
    if needed:
        msg = f"min_precision: {problem}; {RUN} (in Python calibrate(model, samples))"
        raise SpecError(msg)
    if "weights" in problem:
        say(f"{problem}, so scores have no probabilities; {RUN}")
    return None


def checked_precision(model: Calibrated, min_precision: float | None) -> float | None:
    """Return the precision that is asked for, before anything slow is done.

    Raises:
        SpecError: it is no share, or the model has no calibration for it.
    """
    if min_precision is None:
        return None
    what = "from 0 to 1, such as 0.9"
    calibration_of(model, needed=True)
    return number("min_precision", min_precision, least=0, most=1, what=what)


@dataclass(frozen=True)
class JudgedScores:
    """What each score of some results is worth."""

    probabilities_Qk: np.ndarray | None
    """That a result is right; None without a calibration."""
    is_kept_Qk: np.ndarray
    """Whether it belongs to those of which the asked share is right."""


def judge_scores(
    model: Calibrated,
    direction: tuple[str, str],
    scores_Qk: np.ndarray,
    *,
    items: int,
    queries_QD: Tensor | None = None,
    min_precision: float | None = None,
    right_targets: float | None = None,
) -> JudgedScores:
    """Return the probability of each result, and whether it is to be returned.

    Args:
        model: whose scores they are.
        direction: the modality of the queries and that of the results.
        scores_Qk: cosines, in any order; those of a query's best results, or of all.
        items: how many were compared.
        queries_QD: embeddings of the queries, L2-normalised; scores are not standardised without.
        min_precision: the share of what is returned that is to be right; all are kept if None.
        right_targets: how many are right, on average; as in the calibration if None.

    Raises:
        SpecError: the precision is none, or there is no calibration that fits.
    """
    everything = JudgedScores(None, np.ones(scores_Qk.shape, np.bool_))
    min_precision = checked_precision(model, min_precision)
    calibration = calibration_of(model)
    if calibration is None:
        return everything
    query, target = direction
    fit = calibration.searches.get(f"{query}_to_{target}")
    if fit is None:
        if min_precision is None:
            return everything
        known = ", ".join(name.replace("_to_", " to ") for name in calibration.searches)
        msg = f"min_precision: {query} to {target} is not calibrated, only {known}; leave it out"
        raise SpecError(msg)
    pair = calibration.pairs.get(f"{query}_{target}") or calibration.pairs.get(f"{target}_{query}")
    if items == 1 and pair:
        found_Qk = sigmoid(pair.slope * scores_Qk + pair.offset)
        return JudgedScores(found_Qk, found_Qk >= (min_precision or 0))
    if queries_QD is not None and (found := calibration.standardized.get(f"{query}_to_{target}")):
        background_BD = cast("dict[str, Tensor]", model.background)[target]
        near_Q = nearness(queries_QD, background_BD)
        fit, scores_Qk = found.search, scores_Qk - found.weight * near_Q[:, None]
    wrong = items - (fit.right_targets if right_targets is None else right_targets)
    best, further = result_odds(fit, wrong), result_odds(fit, wrong, further=True)
    is_best_Qk = np.zeros(scores_Qk.shape, np.bool_)
    if scores_Qk.size:
        is_best_Qk[np.arange(len(scores_Qk)), scores_Qk.argmax(1)] = True
    best_Qk = np.where(is_best_Qk, best.probability(scores_Qk), 0).max(1, keepdims=True, initial=0)
    further_Qk = np.minimum(further.probability(scores_Qk), best_Qk)
    probabilities_Qk = np.where(is_best_Qk, best_Qk, further_Qk)
    if not min_precision:
        return JudgedScores(probabilities_Qk, everything.is_kept_Qk)
    if guessed := beyond_calibration(calibration, direction, items):
        say(f"min_precision: {guessed}")
    from_best, most = best.threshold(min_precision)
    if from_best == math.inf:
        say(
            f"no result reaches a precision of {min_precision:g} among {items:,} {target}s; the "
            f"best ones reach {rounded_down(most)} at most"
        )
    from_further, _ = further.threshold(min_precision)
    above_Qk = scores_Qk >= np.where(is_best_Qk, from_best, from_further)
    return JudgedScores(probabilities_Qk, above_Qk & (above_Qk & is_best_Qk).any(1, keepdims=True))


def beyond_calibration(calibration: Calibration, direction: tuple[str, str], items: int) -> str:
    """Return what to say of a search among more items than were calibrated among; "" of fewer."""
    fit = calibration.searches.get("_to_".join(direction))
    if fit is None or items <= fit.targets:
        return ""
    return (
        f"{items:,} {direction[1]}s are searched, and the model was calibrated among "
        f"{fit.targets:,}, so that the precision is a guess; calibrate on a larger split: "
        "contrastive calibrate --fit-split SPLIT"
    )


@dataclass(frozen=True)
class ResultOdds:
    """How probable it is that a result among so many wrong targets is right."""

    slope: float
    offset: float
    scores_G: np.ndarray
    """Quantiles of the scores of such results, ascending."""
    errors_G: np.ndarray | float = 0.0
    """By how much the log odds at these may be less."""

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each result."""
        return sigmoid(self.slope * scores + self.offset)

    def precisions(self) -> np.ndarray:
        """Return the share of results that is right, ``[G]``, from each quantile on."""
        logits_G = self.slope * self.scores_G + self.offset - self.errors_G
        downwards_G = sigmoid(logits_G)[::-1]
        return (downwards_G.cumsum() / np.arange(1, len(downwards_G) + 1))[::-1]

    def threshold(self, precision: float) -> tuple[float, float]:
        """Return the lowest score from which on so many results are right, and most that are.

        The score is infinite if the precision is never reached, and minus that if all results do.
        """
        precisions_G = self.precisions()[: max(1, len(self.scores_G) - 1)]
        most = float(precisions_G.max())
        if most < precision:
            return math.inf, most
        if precisions_G[0] >= precision:
            return -math.inf, most
        return float(np.interp(precision, precisions_G, self.scores_G[: len(precisions_G)])), most


def result_odds(fit: SearchFit, wrong: float, *, further: bool = False) -> ResultOdds:
    """Return what results among ``wrong`` wrong targets are worth.

    Between the numbers that were fitted, everything is linear in the logarithm; below them, it is
    that of the fewest. Beyond them, it goes on as it did, and precisions err on the safe side: by
    one standard error of the fit from twice as many on.

    Args:
        fit: of the direction.
        wrong: how many wrong targets there are.
        further: of the results after the best one.
    """
    fits = [size.further if further else size.best for size in fit.sizes]
    logs_S = np.log([size.wrong_targets for size in fit.sizes])
    at = math.log(max(wrong, 1.0))
    below = min(int(np.searchsorted(logs_S, at, side="right")) - 1, len(fits) - 1)
    low = fits[max(below, 0)]
    if below < 0:
        return ResultOdds(low.slope, low.offset, np.array(low.scores))
    if below == len(fits) - 1:
        growth = fit.further_growth if further else fit.best_growth
        beyond = at - float(logs_S[-1])
        known_G = np.array(low.scores)
        slope_2, both, offset_2 = low.variance
        variance_G = slope_2 * known_G**2 + 2 * both * known_G + offset_2
        return ResultOdds(
            low.slope,
            low.offset - growth.odds * beyond,
            known_G + growth.score * beyond,
            min(1.0, beyond / math.log(2)) * np.sqrt(np.maximum(variance_G, 0)),
        )
    high = fits[below + 1]
    part = (at - float(logs_S[below])) / float(logs_S[below + 1] - logs_S[below])
    of = np.linspace(0, 1, max(len(low.scores), len(high.scores)))
    scores_G = (1 - part) * np.quantile(low.scores, of) + part * np.quantile(high.scores, of)
    slope = (1 - part) * low.slope + part * high.slope
    return ResultOdds(slope, (1 - part) * low.offset + part * high.offset, scores_G)


def rounded_down(share: float) -> str:
    """Return a share with two digits, of which it is not less: one of 0.999 is no 1."""
    return f"{math.floor(100 * share) / 100:.2f}"


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-logits))``, without overflow."""
    return np.exp(-np.logaddexp(0, -logits))
