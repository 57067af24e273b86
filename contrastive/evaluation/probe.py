"""What a tower has learned, by classifiers on what it gives: a linear probe and neighbours' votes.

The tower stays as it is. Its features, or its embeddings, of labelled training samples are what a
logistic regression is fitted on and what nearest neighbours are looked for in; test samples that it
has not seen are classified. With shots, few training samples of each class are drawn, several
times.

Shapes: N training samples, Q test samples, F features, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from contrastive.config.arguments import check_model, count, counts, number
from contrastive.config.renamed import renamed_parameters
from contrastive.data.sample_lists import text_list
from contrastive.errors import DataError
from contrastive.evaluation.evaluate import top5_share
from contrastive.evaluation.intervals import Estimate, bootstrap
from contrastive.evaluation.labelled_splits import Inputs, Reader, Splits
from contrastive.evaluation.logistic import choose_strength, fit_and_score
from contrastive.evaluation.tabular import Tabular
from contrastive.inference.nearest import top_k
from contrastive.inference.zero_shot import classify_among, embed_classes
from contrastive.prompts import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared

SEEDS = 3
VALIDATION = 0.2  # share of all training samples that choose C
VALIDATION_SHOTS = 4  # of each class at most, besides the shots (Zhou et al. 2022)
NEIGHBOURS, TEMPERATURE = 20, 0.07  # as DINO has them (Caron et al. 2021)
TINY = float(np.finfo(np.float32).tiny)  # the least that is above 0
QUERIES = 1024  # that look for neighbours at a time


@dataclass(frozen=True)
class Accuracy:
    """How often a classifier is right."""

    top1: Estimate
    """The interval is of the test samples; chance is the share of the largest class."""
    top5: float | None
    """None for fewer than five classes."""
    mean_per_class: float
    """Mean of the classes' recalls."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear probe on so many training samples of each class; means over the draws."""

    shots: int | None
    """None is all training samples."""
    accuracy: Accuracy
    std: float | None
    """Standard deviation of top-1 over the draws; None for a single one."""
    samples: int
    """Training samples that a classifier was fitted on."""
    C: list[float]
    """scikit-learn's inverse strength of the regularisation that each draw chose."""


@dataclass(frozen=True)
class Neighbours:
    """A vote of the nearest training samples."""

    k: int
    temperature: float
    accuracy: Accuracy


@dataclass(frozen=True, repr=False)
class ProbeReport(Tabular):
    """What ``probe`` found."""

    split: str
    train_split: str
    modality: str
    inputs: Inputs
    classes: int
    train: int
    """Distinct training samples."""
    test: int
    linear: list[LinearProbe]
    """By shots; the last is of all training samples."""
    knn: Neighbours
    zero_shot: Accuracy | None
    """By the classes' names, for images of a model that has a text tower."""
    faults: list[str]
    notes: list[str] = field(default_factory=list[str])
    """What to know about the numbers."""
    dropped: int = 0
    """Test samples left out since training has them, or others of their groups."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each classifier: its training samples and accuracies."""
        found: list[tuple[str, int, Accuracy]] = [
            (f"linear, {point.shots or 'all'} shots", point.samples, point.accuracy)
            for point in self.linear
        ]
        found.append((f"{self.knn.k} neighbours", self.train, self.knn.accuracy))
        if self.zero_shot:
            found.append(("zero-shot", 0, self.zero_shot))
        return [
            {"classifier": name, "training samples": samples, "split": self.split}
            | {f"top-1 {key}": value for key, value in asdict(accuracy.top1).items()}
            | {"top-5": accuracy.top5, "mean per class": accuracy.mean_per_class}
            for name, samples, accuracy in found
        ]

    def __repr__(self) -> str:
        parts = [f"{row['classifier']} {row['top-1 value']:.1%}" for row in self.rows()]
        return f"ProbeReport({self.split}: {'; '.join(parts)})"


@renamed_parameters(on="inputs")
def probe(
    model: ContrastiveModel,
    train_samples: Samples,
    test_samples: Samples,
    *,
    modality: str = "image",
    inputs: Inputs = "features",
    shots: Sequence[int] | None = None,
    seeds: int = SEEDS,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    templates: Sequence[str] = TEMPLATES,
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
    train_split: str = "train",
    split: str = "test",
) -> ProbeReport:
    """Measure a linear probe, neighbours and, where there is a text tower, the classes' names.

    Args:
        model: the model.
        train_samples: a built dataset with classes, which the classifiers learn from.
        test_samples: a built dataset with classes, which they are measured on.
        modality: whose tower.
        inputs: what the classifiers see: the encoder's features, or the tower's embeddings.
        shots: also probe on so many training samples of each class.
        seeds: how many times those are drawn.
        k: neighbours that vote.
        temperature: of their votes.
        templates: sentences for the classes' names.
        shared: ``refuse`` test samples that the model or the probe is trained on, or ``drop`` them
            and their groups.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.
        train_split: what to call the training samples in messages.
        split: what to call the test samples.

    Raises:
        DataError: there are no classes, a class has too few training samples, the splits share
            samples, the model was trained on the test samples, or too many samples are bad.
        MissingExtra: scikit-learn is not installed.

    Example:
        >>> def samples(sides):  # red and blue, of each side in pixels
        ...     sized = {n: (red.resize((n, n)), blue.resize((n, n))) for n in sides}
        ...     found = [r | {"image": x} for n in sides for r, x in zip(rows, sized[n])]
        ...     return RowList(found, BadRows(), classes=("blue", "red"))
        >>> report = probe(model, samples(range(30, 36)), samples([40, 41]), k=1)
        >>> report.classes, report.train, report.test
        (2, 12, 4)
    """
    check_model(model)
    k, shots = count("k", k), counts("shots", shots or ())
    seeds, workers = count("seeds", seeds), count("workers", workers, least=0)
    templates = text_list(templates, "template")
    reader = Reader(model, modality, inputs, cache, workers, shared)
    data = reader.read(train_samples, test_samples, train_split=train_split, split=split)
    neighbours = knn(data, k=k, temperature=temperature)
    zero_shot = None
    if modality == "image" and "text" in model.towers:
        images = [row[modality] for row in data.test_rows]
        names_CD = embed_classes(model, data.classes, templates=templates, cache=cache)
        found = classify_among(model, images, names_CD, cache=cache)
        zero_shot = _accuracy([found.numpy()], data)
    return ProbeReport(
        split,
        train_split,
        modality,
        inputs,
        len(data.classes),
        len(data.train.truth_N),
        len(data.test.truth_N),
        linear_probe(data, shots=shots, seeds=seeds),
        neighbours,
        zero_shot,
        data.faults,
        data.notes,
        data.dropped,
    )


def linear_probe(
    data: Splits,
    *,
    shots: Sequence[int] = (),
    seeds: int = SEEDS,
    C: float | None = None,
) -> list[LinearProbe]:
    """Classify by logistic regression (Radford et al. 2021, appendix A.3).

    Args:
        data: features of both splits, as ``Reader`` reads them.
        shots: also fit on so many training samples of each class.
        seeds: how many times those are drawn.
        C: scikit-learn's inverse strength of the regularisation. None chooses it on a validation
            part: a fifth of all training samples, which are fitted on too in the end; with shots,
            up to 4 further samples of each class, at most as many as the shots.

    Returns:
        A point for each of ``shots``, and one for all training samples.

    Raises:
        DataError: a class has too few training samples.
        MissingExtra: scikit-learn is not installed.
    """
    shots, seeds = counts("shots", shots), count("seeds", seeds)
    if C is not None:
        number("C", C, least=TINY, most=math.inf, what="above 0, or None to choose it")
    _check_shots(data, shots)
    return [*(_point(data, k, seeds, C) for k in shots), _point(data, None, 1, C)]


def knn(data: Splits, *, k: int = NEIGHBOURS, temperature: float = TEMPERATURE) -> Neighbours:
    """Classify by the nearest training samples: each votes ``exp(cosine / temperature)``.

    This is the classifier of Wu et al. 2018 (arXiv:1805.01978, section 3.4) and of DINO.

    Raises:
        DataError: there are fewer than k training samples.
        SpecError: k or the temperature is no number that makes sense.
    """
    temperature = number("temperature", temperature, least=TINY, most=math.inf, what="above 0")
    train_NF, test_QF = (
        normalize(torch.as_tensor(part.features_NF), dim=-1) for part in (data.train, data.test)
    )
    if count("k", k) > len(train_NF):
        most = len(train_NF)
        msg = (
            f"k={k} neighbours, but split {data.train_split!r} has {most} samples; give "
            f"k={most} (-k {most}) or less"
        )
        raise DataError(msg)
    truth_N = torch.as_tensor(data.train.truth_N)
    votes_QK = torch.zeros(len(test_QF), len(data.classes), dtype=torch.float64)
    for start in range(0, len(test_QF), QUERIES):
        cosines, nearest = top_k(test_QF[start : start + QUERIES], train_NF, k)
        # relative to the nearest, so that no vote overflows
        weights = ((cosines - cosines[:, :1]).double() / temperature).exp()
        votes_QK[start : start + QUERIES].scatter_add_(1, truth_N[nearest], weights)
    return Neighbours(k, temperature, _accuracy([votes_QK.numpy()], data))


def _check_shots(data: Splits, shots: Sequence[int]) -> None:
    labels: list[int] = data.train.truth_N.tolist()
    counts = Counter(labels)
    for k in sorted(shots):
        if few := [c for c, times in sorted(counts.items()) if times < k]:
            more = f", and {len(few) - 1} more classes have too few" if len(few) > 1 else ""
            msg = (
                f"class {data.classes[few[0]]!r} has {counts[few[0]]} samples in split "
                f"{data.train_split!r}, {k} shots need {k}{more}; give fewer shots"
            )
            raise DataError(msg)


def _point(data: Splits, shots: int | None, seeds: int, C: float | None) -> LinearProbe:
    scores: list[np.ndarray] = []
    chosen: list[float] = []
    fitted = data.train
    K = len(data.classes)
    for seed in range(seeds):
        fit, validation = draw(data.train.truth_N, shots, seed=seed)
        if C is None and not len(validation):
            what = f"{shots} shots take" if shots else "fitting takes"
            msg = (
                f"{what} every sample of split {data.train_split!r}, and none is left to choose "
                "the regularisation; give fewer shots, or C"
            )
            raise DataError(msg)
        some = data.train.take(fit)
        best = C or choose_strength(some, data.train.take(validation), classes=K)
        fitted = some if shots else data.train
        scores.append(fit_and_score(fitted, data.test.features_NF, C=best, classes=K))
        chosen.append(best)
    top1 = [float((s.argmax(1) == data.test.truth_N).mean()) for s in scores]
    std = float(np.std(top1, ddof=1)) if seeds > 1 else None
    return LinearProbe(shots, _accuracy(scores, data), std, len(fitted.truth_N), chosen)


def draw(truth_N: np.ndarray, shots: int | None, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples are fitted on, and which choose the regularisation; none is both.

    More shots of a seed include the fewer ones, so that a curve rises by what is added.
    """
    order = np.random.default_rng(seed).permutation(len(truth_N))
    fit: list[np.ndarray] = []
    validation: list[np.ndarray] = []
    for c in np.unique(truth_N):
        mine = order[truth_N[order] == c]
        if shots:
            fit.append(mine[:shots])
            validation.append(mine[shots : shots + min(shots, VALIDATION_SHOTS)])
        else:
            held = min(len(mine) - 1, max(1, round(VALIDATION * len(mine))))
            fit.append(mine[held:])
            validation.append(mine[:held])
    return np.concatenate(fit), np.concatenate(validation)


def _accuracy(scores: Sequence[np.ndarray], data: Splits) -> Accuracy:
    """Return the means over several scorings ``[Q, K]`` of the test samples."""
    truth_Q = data.test.truth_N
    hits_Q = np.mean([s.argmax(1) == truth_Q for s in scores], axis=0)
    majority = float(np.bincount(truth_Q).max() / len(truth_Q))
    groups = np.array([int(row["id"]) for row in data.test_rows])
    top5 = [share for s in scores if (share := top5_share(s, truth_Q)) is not None]
    return Accuracy(
        bootstrap(hits_Q, groups, majority),
        float(np.mean(top5)) if top5 else None,
        float(np.mean([hits_Q[truth_Q == c].mean() for c in np.unique(truth_Q)])),
    )
