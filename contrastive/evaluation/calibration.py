"""What scores are worth as probabilities: fitted on a validation split, judged on another.

Pairs of one group are right; all others of the split are wrong, and together weigh as much as the
right ones. So the probability of a pair is at even odds: one right pair to one of two random
samples. Results of a search are fitted by themselves, since the best of many wrong ones is no
random one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.arguments import check_model, count
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.samples import check_modalities, rows_of
from contrastive.errors import DataError
from contrastive.evaluation.calibration_error import (
    Rejection,
    Reliability,
    rejection,
    reliability,
)
from contrastive.evaluation.calibration_fit import pair_fits, search_fit
from contrastive.evaluation.intervals import Estimate, bootstrap
from contrastive.evaluation.leakage import content_keys, held_out_rows, left_out, seen_samples
from contrastive.evaluation.standardized_scores import (
    background_rows,
    background_tensors,
    by_direction,
    standardized_fits,
)
from contrastive.evaluation.tabular import Tabular
from contrastive.inference.embed_distinct import EmbeddedModality, embed_modality
from contrastive.model.calibration_file import CALIBRATION_FORMAT, PLAIN_FORMAT, Calibration
from contrastive.model.scores import result_odds, sigmoid
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.evaluation.result_scores import DirectionScores
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared

ASKED = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Precision:
    """What a search for results of an asked precision returns, of the best ones of each query."""

    direction: str
    asked: float
    score: float | None
    """The score from which on: a cosine, or a standardised one; -1 if all reach the precision, None
    if no result does."""
    most: float
    """What results reach at most, by the fit."""
    queries: int
    returned: int
    right: Estimate | None
    """Share of what is returned that is right; None if nothing is."""


@dataclass(frozen=True, repr=False)
class CalibrationReport(Tabular):
    """What ``calibrate`` fitted, and how well it holds."""

    calibration: Calibration
    split: str
    """What it was judged on."""
    is_judged: bool
    """Whether that is other data than it was fitted on; else only ``rejection`` is told."""
    reliability: dict[str, Reliability] = field(default_factory=dict[str, Reliability])
    """By pair of modalities, as ``image_text``: right pairs and as many random wrong ones."""
    precision: list[Precision] = field(default_factory=list[Precision])
    rejection: dict[str, Rejection] = field(default_factory=dict[str, Rejection])
    """By direction, as ``text_to_image``."""
    standardized_rejection: dict[str, Rejection] = field(default_factory=dict[str, Rejection])
    """The same of standardised scores, if there is a background set."""
    faults: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    """What to know about the numbers."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; the calibration without its grids of scores."""
        found = {
            name: value
            for name, value in vars(self).items()
            if name in ("split", "is_judged", "faults", "notes")
        }
        return found | {
            "fitted_on": self.calibration.fitted_on,
            "pairs": {name: fit.model_dump() for name, fit in self.calibration.pairs.items()},
            "reliability": {name: asdict(one) for name, one in self.reliability.items()},
            "precision": [asdict(one) for one in self.precision],
            "rejection": {name: asdict(one) for name, one in self.rejection.items()},
            "standardized_rejection": {
                name: asdict(one) for name, one in self.standardized_rejection.items()
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each direction and precision that is asked for."""
        return [
            {
                "direction": one.direction,
                "asked": one.asked,
                "score": one.score,
                "returned": one.returned,
                "queries": one.queries,
                "right": one.right and one.right.value,
                "low": one.right and one.right.low,
                "high": one.right and one.right.high,
            }
            for one in self.precision
        ]

    def __repr__(self) -> str:
        errors = "; ".join(
            f"{name} calibration error {one.error:.3f} (of a perfect score {one.of_perfect:.3f})"
            for name, one in self.reliability.items()
        )
        return f"CalibrationReport({errors or 'not judged'})"


def calibrate(
    model: ContrastiveModel,
    samples: Samples,
    test: Samples | None = None,
    *,
    background: Samples | None = None,
    fit_split: str = "",
    split: str = "",
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> CalibrationReport:
    """Fit what scores are worth as probabilities, and judge that on other samples.

    ``model.calibration`` has it then; ``search``, ``classify``, ``answer`` and ``caption`` apply
    it, and ``model.save`` saves it. It holds for data like these, and for these weights.

    Args:
        model: the model.
        samples: a built dataset to fit it on, which training has not seen; rows with equal ids
            belong together.
        test: another one to judge it on, without samples of the first; it is not judged if None.
        background: samples to standardise each query's scores by: what the query is near to
            anyhow, among up to 1,000 of them, counts the less. They may be those of training;
            samples of the other two are left out. Scores are cosines if None.
        fit_split: what to call the first.
        split: what to call the second.
        shared: ``refuse`` rows that the model was trained on, or of ``test`` that it was fitted on;
            or ``drop`` them and their groups.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.

    Raises:
        DataError: samples were seen before, are too few or bad, or matched pairs do not score
            higher than others.

    Example:
        >>> report = calibrate(model, rows)  # doctest: +SKIP
        >>> search(model, "a dog", images="photos", min_precision=0.9)  # doctest: +SKIP
    """
    check_model(model)
    workers = count("workers", workers, least=0)
    notes: list[str] = []
    faults: list[str] = []
    rows = _held_out(model, samples, fit_split, shared, notes)
    embedded = _embedded(model, samples, rows, faults, cache=cache, workers=workers)
    found = by_direction(embedded)
    if not found:
        msg = "there is nothing to search: one modality, and no group of several samples"
        raise DataError(msg)
    name = f"the split {fit_split}" if fit_split else "samples that were given"
    calibration = Calibration(
        format=PLAIN_FORMAT,
        weights=weights_fingerprint(model),
        fitted_on=f"{name}, {len(rows):,} rows",
        pairs=pair_fits(found, notes),
        searches={direction: search_fit(scores) for direction, scores in found.items()},
    )
    judged = embedded
    known = [rows]
    if test is not None:
        keys = seen_samples(content_keys(rows, [*model.towers]))
        held_out = _held_out(model, test, split, shared, notes)
        of = f"{name}, which the calibration is fitted on"
        kept = held_out_rows(keys, held_out, split, shared, of=of)
        if len(kept) < len(held_out):
            notes.append(f"{len(held_out) - len(kept)} rows are left out: they are of {name}, too")
        judged = _embedded(model, test, kept, faults, cache=cache, workers=workers)
        known.append(kept)
    scores, standardized = by_direction(judged), {}
    tensors: dict[str, Tensor] | None = None
    if background is not None:
        others = background_rows(model, background, known)
        near = _embedded(model, background, others, faults, cache=cache, workers=workers)
        tensors = background_tensors(near)
        fits = standardized_fits(found, embedded, tensors)
        weights = {direction: fit.weight for direction, fit in fits.items()}
        standardized = by_direction(judged, weights, tensors)
        about = " and ".join(f"{len(each_BD):,} {name}s" for name, each_BD in tensors.items())
        changes = {"format": CALIBRATION_FORMAT, "background": about, "standardized": fits}
        calibration = calibration.model_copy(update=changes)
    model.calibration, model.background = calibration, tensors
    judged_by = scores | standardized
    return CalibrationReport(
        calibration,
        split if test is not None else fit_split,
        test is not None,
        reliability=_reliabilities(calibration, scores) if test is not None else {},
        precision=_precisions(calibration, judged_by) if test is not None else [],
        rejection=_rejections(scores),
        standardized_rejection=_rejections(standardized),
        faults=faults,
        notes=notes,
    )


def _held_out(
    model: ContrastiveModel, samples: Samples, split: str, shared: Shared, notes: list[str]
) -> Sequence[dict[str, Any]]:
    """Return the rows that training has not seen."""
    rows = rows_of(samples)
    check_modalities(rows, model.towers)
    kept = held_out_rows(model.seen, rows, split, shared)
    notes += left_out(len(rows) - len(kept), len(rows))
    return kept


def _embedded(
    model: ContrastiveModel,
    samples: Samples,
    rows: Sequence[dict[str, Any]],
    faults: list[str],
    **settings: Any,
) -> dict[str, EmbeddedModality]:
    known = bad_rows_of(samples)
    bad_rows = known.copy()
    embedded = {
        modality: embed_modality(model, rows, modality, bad_rows, **settings)
        for modality in model.towers
    }
    bad_rows.check(len(rows) + known.bad)
    faults += bad_rows.lines
    return embedded


def _rejections(judged: dict[str, DirectionScores]) -> dict[str, Rejection]:
    return {
        direction: rejection(scores.all.best_Q[scores.all.is_right_Q], scores.best_wrong_Q)
        for direction, scores in judged.items()
        if scores.all.is_right_Q.any()
    }


def _reliabilities(
    calibration: Calibration, judged: dict[str, DirectionScores]
) -> dict[str, Reliability]:
    """Judge right pairs and as many random wrong ones."""
    found: dict[str, Reliability] = {}
    for name, fit in calibration.pairs.items():
        scores = next(x for way, x in judged.items() if way.replace("_to_", "_", 1) == name)
        wrong = np.random.default_rng(0).permutation(scores.wrong_W)[: len(scores.right_R)]
        pairs = np.concatenate([scores.right_R, wrong])
        is_right = np.arange(len(pairs)) < len(scores.right_R)
        found[name] = reliability(sigmoid(fit.slope * pairs + fit.offset), is_right)
    return found


def _precisions(calibration: Calibration, judged: dict[str, DirectionScores]) -> list[Precision]:
    found: list[Precision] = []
    for direction, fit in calibration.searches.items():
        if direction in calibration.standardized:
            fit = calibration.standardized[direction].search  # noqa: PLW2901
        scores = judged[direction]
        best_Q, is_right_Q = scores.all.best_Q, scores.all.is_right_Q
        odds = result_odds(fit, scores.targets - scores.right_targets)
        by_chance = scores.right_targets / scores.targets
        for asked in ASKED:
            at, most = odds.threshold(asked)
            there_Q = best_Q >= at
            found.append(
                Precision(
                    direction,
                    asked,
                    None if at == np.inf else max(at, -1.0),
                    most,
                    len(best_Q),
                    int(there_Q.sum()),
                    bootstrap(is_right_Q[there_Q], scores.groups_Q[there_Q], by_chance)
                    if there_Q.any()
                    else None,
                )
            )
    return found
