"""The calibration that a model carries: what it holds, and how it is read and written.

``contrastive calibrate`` fits it (``contrastive.evaluation.calibration``), ``scores`` applies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor

from contrastive.console import say
from contrastive.errors import WeightsError
from contrastive.model.saved_files import BACKGROUND, CALIBRATION, Finite, Sha256, Shape, shaped
from contrastive.model.saved_folder import write_folder
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.model.saved_folder import SavedFolder

CALIBRATION_FORMAT = 2
PLAIN_FORMAT = 1  # without standardised scores, as older releases read it
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


class StandardizedFit(Shape):
    """What searches were worth by cosines less a part of the query's nearness to a background."""

    weight: Annotated[Finite, Field(ge=0)]
    """The part."""
    search: SearchFit


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
    background: str = ""
    """The background set, in words."""
    standardized: dict[str, StandardizedFit] = Field(default={})
    """By direction; taken in place of ``searches`` where there is one."""


class Calibrated:
    """What a model keeps of its calibration."""

    calibration: Calibration | None = None
    """What its scores are worth, if ``contrastive calibrate`` has measured it."""
    background: dict[str, Tensor] | None = None
    """Embeddings of the background set, ``[B, D]`` by modality, if scores are standardised."""


def weights_of(model: Calibrated) -> str:
    """Return the fingerprint of all weights."""
    return weights_fingerprint(cast("Any", model))


def calibration_files(model: Calibrated) -> dict[str, Any]:
    """Return what a saved model has of its calibration; of other weights, it is forgotten."""
    if model.calibration and model.calibration.weights != weights_of(model):
        say(f"{CALIBRATION}: is of other weights than the model has now, and is not saved; {RUN}")
        model.calibration = model.background = None
    if model.calibration is None:
        return {}
    files: dict[str, Any] = {CALIBRATION: model.calibration.model_dump(mode="json")}
    return files | ({BACKGROUND: model.background} if model.background else {})


def restore_calibration(model: Calibrated, saved: SavedFolder) -> None:
    """Give a model the calibration that it was saved with.

    One that cannot be read, or that a later release wrote, is told of, and the model goes without.
    """
    model.calibration = model.background = None
    if CALIBRATION not in saved.files:
        return
    try:
        found = _stored(saved)
        background = _stored_background(saved, found) if found.standardized else None
    except WeightsError as error:
        problem = str(error).partition("; ")[0]
        say(f"{problem}, so scores have no probabilities; {RUN}, or copy the model again")
    else:
        model.calibration, model.background = found, background


def _stored(saved: SavedFolder) -> Calibration:
    data, path = saved.json(CALIBRATION), saved.path / CALIBRATION
    written: Any = cast("dict[str, Any]", data).get("format") if isinstance(data, dict) else None
    if isinstance(written, int) and written > CALIBRATION_FORMAT:
        msg = (
            f"{path}: was written in format {written}, this version reads up to "
            f"{CALIBRATION_FORMAT} (pip install --upgrade contrastive-kit)"
        )
        raise WeightsError(msg)
    return shaped(Calibration, data, path)


def _stored_background(saved: SavedFolder, found: Calibration) -> dict[str, Tensor]:
    path = saved.path / BACKGROUND
    tensors = saved.tensors(BACKGROUND) if BACKGROUND in saved.files else {}
    background = {name: tensor.clone() for name, tensor in tensors.items()}
    dim = saved.json("spec.json").get("embed_dim")
    for direction in found.standardized:
        name = direction.partition("_to_")[2]
        tensor = background.get(name)
        if tensor is None:
            problem = f"has no {name}"
        elif tensor.dtype != torch.float32 or [*tensor.shape[1:]] != [dim] or not len(tensor):
            problem = f"{name} is no table of {dim} numbers a row"
        elif not tensor.isfinite().all():
            problem = f"{name} has numbers that are not finite"
        else:
            continue
        msg = f"{path}: cannot be read: {problem}"
        raise WeightsError(msg)
    return background


def store_calibration(model: Calibrated, saved: SavedFolder) -> Path:
    """Put the calibration of a model into the folder that it was loaded from.

    Raises:
        WeightsError: the folder cannot be written.
    """
    others = saved.files - {CALIBRATION, BACKGROUND}
    write_folder(saved.path, calibration_files(model), keep=others)
    return saved.path / CALIBRATION
