"""The scores of all searches of a split: cosines, and what they are above a background set.

Shapes: Q queries, T targets, B samples of the background, D wide.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from contrastive.data.columns import some_rows
from contrastive.data.samples import check_modalities, rows_of
from contrastive.errors import DataError
from contrastive.evaluation.calibration_fit import background_part, search_fit
from contrastive.evaluation.leakage import content_keys, held_out_rows, seen_samples
from contrastive.evaluation.result_scores import DirectionScores, direction_scores
from contrastive.evaluation.retrieval import has_companions
from contrastive.model.background import FEWEST, MOST, nearness
from contrastive.model.calibration_file import StandardizedFit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.inference.embed_distinct import EmbeddedModality
    from contrastive.model.model import ContrastiveModel

Embedded = dict[str, "EmbeddedModality"]


def by_direction(
    embedded: Embedded,
    weights: dict[str, float] | None = None,
    background: dict[str, Tensor] | None = None,
) -> dict[str, DirectionScores]:
    """Return the scores of each modality's searches by each other one, as ``text_to_image``.

    Args:
        embedded: by modality.
        weights: by direction, which part of a query's nearness to the background is taken from its
            cosines; none if None.
        background: by modality.
    """
    found: dict[str, DirectionScores] = {}
    for query, a in embedded.items():
        for target, b in embedded.items():
            if query == target and not (len(embedded) == 1 and has_companions(a.ids_Q)):
                continue
            direction, scorer = f"{query}_to_{target}", _cosines
            if weights is not None and background is not None:
                scorer = partial(_less_near, weights[direction], background[target])
            found[direction] = direction_scores(a, b, scorer)
    return found


def _cosines(a_QD: Tensor, b_TD: Tensor) -> Tensor:
    return a_QD @ b_TD.T


def _less_near(weight: float, background_BD: Tensor, a_QD: Tensor, b_TD: Tensor) -> Tensor:
    near_Q = torch.from_numpy(nearness(a_QD, background_BD))
    return _cosines(a_QD, b_TD).double() - weight * near_Q[:, None]


def background_rows(
    model: ContrastiveModel, background: Samples, known: list[Sequence[dict[str, Any]]]
) -> Sequence[dict[str, Any]]:
    """Return rows of a background set, drawn at random, without samples of ``known`` rows.

    Raises:
        DataError: none are left.
    """
    rows = rows_of(background, needs_ids=False)
    if not len(rows):
        msg = "the background set is empty; give one with rows, such as those of training"
        raise DataError(msg)
    check_modalities(rows, model.towers)
    drawn = np.random.default_rng(0).permutation(len(rows))[: 2 * MOST]
    rows = some_rows(rows, np.sort(drawn))
    for other in known:
        keys = seen_samples(content_keys(other, [*model.towers]))
        try:
            rows = held_out_rows(keys, rows, "", "drop")
        except DataError:
            msg = (
                "all rows of the background set are of the data that the calibration is fitted or "
                "judged on; give others, such as those of training (--background train)"
            )
            raise DataError(msg) from None
    return rows


def background_tensors(embedded: Embedded) -> dict[str, Tensor]:
    """Return the embeddings of a background set, ``[B, D]`` by modality.

    Raises:
        DataError: there are too few.
    """
    found: dict[str, Tensor] = {}
    for name, one in embedded.items():
        drawn = np.random.default_rng(0).permutation(len(one.embeddings_QD))[:MOST]
        found[name] = one.embeddings_QD[drawn].float().cpu()
        if len(drawn) < FEWEST:
            msg = (
                f"{len(drawn)} {name} samples are too few for a background set; give {FEWEST} at "
                "least, such as those of training, or leave it out"
            )
            raise DataError(msg)
    return found


def standardized_fits(
    found: dict[str, DirectionScores], embedded: Embedded, background: dict[str, Tensor]
) -> dict[str, StandardizedFit]:
    """Fit standardised scores, by direction.

    Args:
        found: the cosines.
        embedded: of what they are.
        background: by modality.
    """
    weights: dict[str, float] = {}
    for direction, scores in found.items():
        query, _, target = direction.partition("_to_")
        asked_QD = embedded[query].embeddings_QD[scores.asked_Q]
        weights[direction] = background_part(scores, nearness(asked_QD, background[target]))
    return {
        direction: StandardizedFit(weight=weights[direction], search=search_fit(scores))
        for direction, scores in by_direction(embedded, weights, background).items()
    }
