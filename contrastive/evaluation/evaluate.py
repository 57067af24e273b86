"""How good a model is: recall both ways by the any-hit rule, and zero-shot accuracy.

The definitions are those of CLIP_benchmark: for text to image, a caption scores if an image of its
group is among the first k; for image to text, an image scores if *any* of its captions is. Ties
count against the model, so embeddings that have all collapsed to one point score nothing.

Shapes: Q queries, T targets, D the shared width, K the values of k.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.data.bad_rows import Faults
from contrastive.data.content_hash import sample_key
from contrastive.data.images import StoredImage
from contrastive.data.loading import check_modalities, rows_of
from contrastive.errors import BadSample, DataError
from contrastive.evaluation.geometry import Geometry, geometry
from contrastive.inference.zero_shot import classify_embeddings, embed_classes
from contrastive.spec import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.datasets import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel

KS = (1, 5, 10)
CHUNK_BYTES = 64 << 20  # scores held at a time
RESAMPLES = 1000
PARTS = 20  # drawn one after the other, so that memory is bounded
UNHASHED = ("text",)  # the same words may well stand in two splits; the same picture may not


@dataclass(frozen=True)
class Figure:
    """A share, with its 95 % bootstrap interval and what guessing would give."""

    value: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Direction:
    """Retrieval of one modality by another."""

    recall: dict[int, Figure]
    """By k."""
    median_rank: float
    """1 is perfect."""
    queries: int
    targets: int


@dataclass(frozen=True)
class Classification:
    """Zero-shot classification by the classes' names."""

    accuracy: Figure
    """Top-1; chance is the majority class."""
    mean_per_class: float
    """Mean of the classes' recalls, so that a large class counts no more than a small one."""
    images: int
    classes: int
    top5: float | None = None
    """Share of images whose class is among the likeliest five; None for fewer than five classes."""
    modality: str = "image"
    """What was classified, if not images."""


@dataclass(frozen=True)
class Report:
    """What ``evaluate`` found."""

    split: str
    retrieval: dict[str, Direction]
    """By ``query_to_target``: ``text_to_image`` is CLIP_benchmark's image_retrieval_recall."""
    classification: Classification | None = None
    faults: list[str] = field(default_factory=list[str])
    geometry: dict[str, Geometry] = field(default_factory=dict[str, Geometry])
    """How the embeddings of each modality lie."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def evaluate(
    model: ContrastiveModel,
    samples: Samples,
    *,
    split: str = "",
    templates: Sequence[str] = TEMPLATES,
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> Report:
    """Measure retrieval both ways, and zero-shot classification if the samples have labels.

    Args:
        model: the model.
        samples: a built dataset; rows with equal ids belong together.
        split: what to call it in the report.
        templates: sentences for the classes.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.

    Raises:
        DataError: the model was trained on some of these images, or too many samples are bad.
    """
    rows = rows_of(samples)
    check_modalities(rows, model.towers)
    check_held_out(model, rows, split)
    known: Faults = getattr(samples, "faults", None) or Faults()
    # a copy, since the dataset may be measured again
    faults = replace(known, lines=[*known.lines], said={*known.said})
    embedded = {
        modality: embed_column(model, rows, modality, faults, cache=cache, workers=workers)
        for modality in model.towers
    }
    faults.check(len(rows) + known.bad)
    retrieval = {
        f"{query}_to_{target}": recall(embedded[query], embedded[target])
        for query in embedded
        for target in embedded
        if query != target or (len(embedded) == 1 and _has_companions(embedded[query]))
    }
    classes: Sequence[str] = getattr(samples, "classes", ())
    labelled = bool(classes) and all(row.get("label") in classes for row in rows)
    named = named_modality(model)
    classification = None
    if labelled and named:
        names = embed_classes(model, classes, templates=templates, cache=cache)
        classification = _classification(model, embedded[named], names, rows, classes, named)
    lie = {m: geometry(column.embeddings_QD, column.ids_Q) for m, column in embedded.items()}
    known_lie = {modality: figures for modality, figures in lie.items() if figures}
    return Report(split, retrieval, classification, faults.lines, known_lie)


def named_modality(model: ContrastiveModel) -> str | None:
    """Return the modality whose classes can be told by their names: images, else the first other.

    None without a text tower, or with nothing else.
    """
    others = [modality for modality in model.towers if modality != "text"]
    if "text" not in model.towers or not others:
        return None
    return "image" if "image" in others else others[0]


@dataclass(frozen=True)
class Column:
    """The distinct samples of one modality, embedded."""

    embeddings_QD: Tensor
    ids_Q: Tensor
    rows: list[int]
    """The first row of the dataset in which each stands."""


def embed_column(
    model: ContrastiveModel,
    rows: Sequence[dict[str, Any]],
    modality: str,
    faults: Faults,
    *,
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> Column:
    """Embed each distinct sample of a modality once: an image with five captions is one image."""
    places = distinct_rows(rows, modality)
    first = [rows_of_it[0] for rows_of_it in places]
    bad: set[int] = set()

    def note(index: int, problem: str) -> None:
        bad.add(index)
        source = str(rows[first[index]].get("source", ""))
        faults.report(source, problem, rows=len(places[index]))

    embeddings = model.embed(
        modality, [rows[i][modality] for i in first], cache=cache, workers=workers, on_bad=note
    )
    good = [i for i in range(len(first)) if i not in bad]
    ids = torch.tensor([int(rows[first[i]]["id"]) for i in good])
    return Column(embeddings[good], ids, [first[i] for i in good])


def distinct_rows(rows: Sequence[dict[str, Any]], modality: str) -> list[list[int]]:
    """Return the rows in which each distinct sample of each group stands."""
    distinct: dict[tuple[int, Any], list[int]] = {}
    for i, row in enumerate(rows):
        sample = row[modality]
        by_value = isinstance(sample, (str, bytes, Path, StoredImage))
        name = sample if by_value else sample_key(sample, modality)
        distinct.setdefault((int(row["id"]), name), []).append(i)
    return list(distinct.values())


def recall(queries: Column, targets: Column, *, ks: Sequence[int] = KS) -> Direction:
    """Return recall at each k and the median rank, by the any-hit rule.

    The rank of a query is 1 plus the number of wrong targets that score at least as high as its
    best right one. Queries without a right target are left out. Within one modality, where queries
    are the targets, no query is its own target.
    """
    ranks, positives = _ranks(queries, targets)
    asked = positives > 0
    if not asked.any():
        msg = "no query has a right answer among the targets; are the group ids right?"
        raise DataError(msg)
    among = len(targets.ids_Q) - (queries is targets)
    groups = queries.ids_Q.numpy()[asked]
    figures: dict[int, Figure] = {}
    for k in ks:
        chance = float(np.mean([_chance(p, among, k) for p in positives[asked]]))
        figures[k] = bootstrap(ranks[asked] <= k, groups, chance)
    median = float(np.median(ranks[asked]))
    return Direction(figures, median, int(asked.sum()), among)


def _has_companions(column: Column) -> bool:
    """Whether some sample has another of its group, so that it can be asked for."""
    return len(set(cast("list[int]", column.ids_Q.tolist()))) < len(column.ids_Q)


def check_held_out(model: ContrastiveModel, rows: Sequence[dict[str, Any]], split: str) -> None:
    """Refuse to measure a model on nothing, or on what it was trained on.

    Raises:
        DataError: the split is empty, or shares samples with training; names the first.
    """
    if not rows:
        msg = f"split {split!r} is empty; there is nothing to measure"
        raise DataError(msg)
    for modality, seen in model.seen.items():
        known = set(cast("list[int]", seen.tolist()))
        hits = [i for i, row in enumerate(rows) if short_key(row[modality], modality) in known]
        if hits:
            source = rows[hits[0]].get("source", f"row {hits[0]}")
            msg = (
                f"split {split!r} shares {len(hits)} of {len(rows)} {modality} rows with the "
                f"training split, the first is {source}; measure on a split that it has not seen"
            )
            raise DataError(msg)


def seen_samples(rows: Sequence[dict[str, Any]], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Return hashes of the samples of each modality but text, sorted, ``[n]`` int64."""
    return {
        modality: torch.tensor(sorted({short_key(row[modality], modality) for row in rows} - {0}))
        for modality in modalities
        if modality not in UNHASHED
    }


def short_key(sample: Any, modality: str) -> int:
    """Return 63 bits of a sample's content hash: enough to tell a million samples apart.

    A sample that cannot be read has 0; it is reported when it is encoded.
    """
    try:
        return int.from_bytes(sample_key(sample, modality)[:8]) >> 1
    except BadSample:
        return 0


def _ranks(queries: Column, targets: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank ``[Q]`` of each query's best right target, and how many right ones it has."""
    target_DT = targets.embeddings_QD.float().T
    chunk = max(1, CHUNK_BYTES // (4 * max(1, target_DT.shape[1])))
    ranks: list[Tensor] = []
    positives: list[Tensor] = []
    for start in range(0, len(queries.ids_Q), chunk):
        scores_QT = queries.embeddings_QD[start : start + chunk].float() @ target_DT
        right_QT = queries.ids_Q[start : start + chunk, None] == targets.ids_Q[None]
        if queries is targets:
            itself = torch.arange(len(scores_QT))
            right_QT[itself, start + itself] = False
            scores_QT[itself, start + itself] = -torch.inf
        best_Q = scores_QT.masked_fill(~right_QT, -torch.inf).amax(1)
        ranks.append(1 + ((scores_QT >= best_Q[:, None]) & ~right_QT).sum(1))
        positives.append(right_QT.sum(1))
    return torch.cat(ranks).numpy(), torch.cat(positives).numpy()


def _chance(positives: int, targets: int, k: int) -> float:
    """Probability that k targets drawn at random hold one of the right ones."""
    if targets - positives < k:
        return 1.0
    missed = math.comb(targets - int(positives), k) / math.comb(targets, k)
    return 1.0 - missed


def bootstrap(hits: np.ndarray, groups: np.ndarray, chance: float) -> Figure:
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
    return Figure(float(hits.mean()), float(low), float(high), chance)


def _classification(
    model: ContrastiveModel,
    images: Column,
    names_CD: Tensor,
    rows: Sequence[dict[str, Any]],
    classes: Sequence[str],
    modality: str,
) -> Classification:
    truth = np.array([classes.index(rows[i]["label"]) for i in images.rows])
    probabilities_QC = classify_embeddings(model, images.embeddings_QD, names_CD)
    hits = probabilities_QC.argmax(1).numpy() == truth
    present = np.unique(truth)
    majority = float(np.bincount(truth).max() / len(truth))
    return Classification(
        bootstrap(hits, images.ids_Q.numpy(), majority),
        float(np.mean([hits[truth == c].mean() for c in present])),
        len(truth),
        len(classes),
        top5_share(probabilities_QC.numpy(), truth),
        modality,
    )


def top5_share(scores_QC: np.ndarray, truth_Q: np.ndarray) -> float | None:
    """Return the share of rows whose class is among the best five; None if there are fewer."""
    if scores_QC.shape[1] < 5:
        return None
    best_Q5 = np.argsort(-scores_QC, axis=1, kind="stable")[:, :5]
    return float((best_Q5 == truth_Q[:, None]).any(1).mean())
