"""The calibration that a model carries: what it holds, and how it is read and written.

``contrastive calibrate`` fits it (``contrastive.evaluation.calibration``), ``scores`` applies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from contrastive.console import say
from contrastive.errors import WeightsError
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
    variance: list[Finite] = Field(default=[0.0, 0.0, 0.0], min_length=3, max_length=3)
    """Of the slope, of slope and offset together, and of the offset."""


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


def weights_of(model: Calibrated) -> str:
    """Return the fingerprint of all weights."""
    return weights_fingerprint(cast("Any", model))


def calibration_files(model: Calibrated) -> dict[str, Any]:
    """Return what a saved model has of its calibration; of other weights, it is forgotten."""
    if model.calibration and model.calibration.weights != weights_of(model):
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
