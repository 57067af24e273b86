"""What a score is worth: the calibration that a model carries, applied to what is found.

``contrastive calibrate`` fits it (``contrastive.evaluation.calibration``). A cosine says which of
two results is nearer, not whether either is right; that depends on the model, on the data, and on
how many were searched, since the best of many wrong ones is better than the best of a few.

Shapes: Q queries, k results of each, G quantiles, S sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from pydantic import Field

from contrastive.config.arguments import number
from contrastive.console import say
from contrastive.errors import SpecError, WeightsError
from contrastive.model.saved_files import CALIBRATION, Finite, Sha256, Shape, shaped
from contrastive.model.saved_folder import write_folder
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.model.saved_folder import SavedFolder

CALIBRATION_FORMAT = 1
RUN = "run: contrastive calibrate"

Scores = Annotated[list[Finite], Field(min_length=1, max_length=10_000)]
Slope = Annotated[Finite, Field(ge=0)]


class PairFit(Shape):
    """Log odds that two samples belong together, at even odds before the score is known."""

    slope: Slope
    offset: Finite
    right: Annotated[int, Field(ge=1)]
    """Pairs that it was fitted on."""
    wrong: Annotated[int, Field(ge=1)]


class ResultFit(Shape):
    """Log odds that a result is right, by its score."""

    slope: Slope
    offset: Finite
    scores: Scores
    """Quantiles, from the lowest to the highest, of such results' scores."""


class SizeFit(Shape):
    """What results were worth among so many wrong targets."""

    wrong_targets: Annotated[int, Field(ge=1)]
    best: ResultFit
    """Of the best result of a query."""
    further: ResultFit
    """Of the results after it."""


class Growth(Shape):
    """What more wrong targets do, for each time that they are e times as many."""

    odds: Annotated[Finite, Field(ge=0)]
    """By how much the log odds fall."""
    score: Finite
    """By how much scores rise."""


class SearchFit(Shape):
    """What the searches of one modality by another were worth."""

    queries: Annotated[int, Field(ge=1)]
    targets: Annotated[int, Field(ge=2)]
    """Distinct ones, that each query was compared with."""
    right_targets: Annotated[Finite, Field(gt=0)]
    """Of a query, on average."""
    sizes: Annotated[list[SizeFit], Field(min_length=1, max_length=64)]
    """From few wrong targets to all that there were."""
    best_growth: Growth
    """Beyond these."""
    further_growth: Growth


class Calibration(Shape):
    """What a model's scores are worth as probabilities: ``calibration.json`` in its folder."""

    format: int
    weights: Sha256
    """Fingerprint of the model that it was fitted for."""
    fitted_on: str
    """The data, in words."""
    written_by: str = f"contrastive-kit {__version__}"
    pairs: dict[str, PairFit]
    """By the two modalities, as ``image_text``."""
    searches: dict[str, SearchFit]
    """By direction, as ``text_to_image``."""


class Calibrated:
    """What a model keeps of its calibration."""

    calibration: Calibration | None = None
    """What its scores are worth, if ``contrastive calibrate`` has measured it."""


def _weights(model: Calibrated) -> str:
    """Return the fingerprint of all weights."""
    return weights_fingerprint(cast("Any", model))


def calibration_files(model: Calibrated) -> dict[str, Any]:
    """Return what a saved model has of its calibration; of other weights, it is forgotten."""
    if model.calibration and model.calibration.weights != _weights(model):
        say(f"{CALIBRATION}: is of other weights than the model has now, and is not saved; {RUN}")
        model.calibration = None
    return {CALIBRATION: model.calibration.model_dump(mode="json")} if model.calibration else {}


def stored_calibration(saved: SavedFolder) -> Calibration | None:
    """Read the calibration of a saved model; None without, or where a later release wrote it.

    Raises:
        WeightsError: the file is none of a calibration.
    """
    if CALIBRATION not in saved.files:
        return None
    data, path = saved.json(CALIBRATION), saved.path / CALIBRATION
    written: Any = cast("dict[str, Any]", data).get("format") if isinstance(data, dict) else None
    if isinstance(written, int) and written > CALIBRATION_FORMAT:
        say(
            f"{path}: was written in format {written}, this version reads up to "
            f"{CALIBRATION_FORMAT}, so scores have no probabilities; run: pip install --upgrade "
            "contrastive-kit"
        )
        return None
    try:
        return shaped(Calibration, data, path)
    except WeightsError as error:
        msg = f"{str(error).partition('; ')[0]}; {RUN}, or copy it again"
        raise WeightsError(msg) from None


def store_calibration(model: Calibrated, saved: SavedFolder) -> Path:
    """Put the calibration of a model into the folder that it was loaded from.

    Raises:
        WeightsError: the folder cannot be written.
    """
    write_folder(saved.path, calibration_files(model), keep=saved.files - {CALIBRATION})
    return saved.path / CALIBRATION


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
    elif found.weights != _weights(model):
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
    min_precision: float | None = None,
    right_targets: float | None = None,
) -> JudgedScores:
    """Return the probability of each result, and whether it is to be returned.

    Args:
        model: whose scores they are.
        direction: the modality of the queries and that of the results.
        scores_Qk: cosines, in any order; those of a query's best results, or of all.
        items: how many were compared.
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
    from_best, most = best.threshold(min_precision)
    if from_best == math.inf:
        say(
            f"no result reaches a precision of {min_precision:g} among {items:,} {target}s; the "
            f"best ones reach {most:.2f} at most"
        )
    from_further, _ = further.threshold(min_precision)
    above_Qk = scores_Qk >= np.where(is_best_Qk, from_best, from_further)
    return JudgedScores(probabilities_Qk, above_Qk & (above_Qk & is_best_Qk).any(1, keepdims=True))


@dataclass(frozen=True)
class ResultOdds:
    """How probable it is that a result among so many wrong targets is right."""

    slope: float
    offset: float
    scores_G: np.ndarray
    """Quantiles of the scores of such results, ascending."""

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each result."""
        return sigmoid(self.slope * scores + self.offset)

    def precisions(self) -> np.ndarray:
        """Return the share of results that is right, ``[G]``, from each quantile on."""
        downwards_G = self.probability(self.scores_G)[::-1]
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
    that of the fewest; beyond them, it goes on as it did.

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
        scores_G = np.array(low.scores) + growth.score * beyond
        return ResultOdds(low.slope, low.offset - growth.odds * beyond, scores_G)
    high = fits[below + 1]
    part = (at - float(logs_S[below])) / float(logs_S[below + 1] - logs_S[below])
    of = np.linspace(0, 1, max(len(low.scores), len(high.scores)))
    scores_G = (1 - part) * np.quantile(low.scores, of) + part * np.quantile(high.scores, of)
    slope = (1 - part) * low.slope + part * high.slope
    return ResultOdds(slope, (1 - part) * low.offset + part * high.offset, scores_G)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-logits))``, without overflow."""
    return np.exp(-np.logaddexp(0, -logits))
