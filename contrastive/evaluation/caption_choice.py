"""Whether a model tells a right caption from a wrong one: SugarCrepe's and Winoground's scores.

An image chooses between its caption and wrong ones (SugarCrepe, Hsieh et al. 2023,
arXiv:2306.14610). Two images and two captions choose each other (Winoground, Thrush et al. 2022,
arXiv:2204.03162). The right one must score higher: ties count against the model.

Shapes: T tests, I images and C captions of a test, D the shared width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.arguments import check_model, path_of
from contrastive.datasets.compositional import read_pair_tests
from contrastive.errors import DataError
from contrastive.evaluation.intervals import Estimate, bootstrap
from contrastive.evaluation.leakage import held_out_rows, left_out
from contrastive.evaluation.tabular import Tabular

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from contrastive.data.bad_rows import BadRows
    from contrastive.datasets.compositional import PairTests
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared


@dataclass(frozen=True, repr=False)
class PairAccuracy(Tabular):
    """Shares of the tests that a model passes."""

    name: str
    text: Estimate
    """Each image scores highest with its caption: SugarCrepe's accuracy, Winoground's text
    score."""
    image: Estimate | None
    """Each caption scores highest with its image; None if tests have one image."""
    group: Estimate | None
    """Both; None if tests have one image."""
    tests: int
    faults: list[str]
    notes: list[str] = field(default_factory=list[str])
    """What to know about the numbers."""
    dropped: int = 0
    """Tests left out since the model was trained on an image of theirs."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each score: its value, its interval, and that of chance."""
        scores = {"text": self.text, "image": self.image, "group": self.group}
        return [{"tests": self.name, "score": k} | asdict(e) for k, e in scores.items() if e]

    def __repr__(self) -> str:
        parts = [f"{row['score']} {row['value']:.1%}" for row in self.rows()]
        return f"PairAccuracy({self.name}: {', '.join(parts)} of {self.tests} tests)"


def compositional(
    model: ContrastiveModel,
    tests: str | Path,
    *,
    images: str | Path | None = None,
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> list[PairAccuracy]:
    r"""Measure compositionality benchmarks (SugarCrepe, Winoground): a report for each file.

    Args:
        model: a model with an image and a text tower.
        tests: a file of tests or a folder of them, as ``read_pair_tests`` describes them.
        images: the folder of the images; by default beside the file.
        shared: ``refuse`` tests with an image that the model was trained on, or ``drop`` them.
        cache: keeps the features of frozen encoders.
        workers: processes that decode images.

    Raises:
        DataError: a file is missing or broken, too many tests are bad, or the model was trained
            on some of the images.
        MissingExtra: a file is Parquet, and pyarrow is not installed.

    Example:
        >>> table = "image,caption,negative_caption\nred.png,a red square,a blue square\n"
        >>> _ = Path("pairs.csv").write_text(table)
        >>> [report] = compositional(model, "pairs.csv", images="photos")
        >>> report.tests
        1
    """
    check_model(model)
    place = None if images is None else path_of("images", images)
    read = read_pair_tests(path_of("tests", tests), images=place)
    return [
        pair_accuracy(model, some, shared=shared, cache=cache, workers=workers) for some in read
    ]


def pair_accuracy(
    model: ContrastiveModel,
    tests: PairTests,
    *,
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> PairAccuracy:
    """Measure how often images and captions choose each other as they should.

    Args:
        model: a model with an image and a text tower.
        tests: as ``contrastive.datasets.compositional.read_pair_tests`` reads them.
        shared: ``refuse`` tests with an image that the model was trained on, or ``drop`` them.
        cache: keeps the features of frozen encoders.
        workers: processes that decode images.

    Raises:
        DataError: the model was trained on some of the images, some tests have one image and
            others two, or too many tests are bad.
    """
    check_model(model)
    rows = [
        {"image": image, "id": i, "source": test.source}
        for i, test in enumerate(tests.tests)
        for image in test.images
    ]
    kept = {row["id"] for row in held_out_rows(model.seen, rows, tests.name, shared)}
    dropped = len(tests.tests) - len(kept)
    notes = left_out(dropped, len(tests.tests), "tests")
    tests = replace(tests, tests=[test for i, test in enumerate(tests.tests) if i in kept])
    shapes = {len(test.images) for test in tests.tests}
    if len(shapes) > 1:
        msg = f"{tests.name}: some tests have one image and others two; give them in two files"
        raise DataError(msg)
    bad_rows = tests.bad_rows.copy()
    scores = _scores(model, tests, bad_rows, cache, workers)
    bad_rows.check(len(tests.tests) + tests.bad_rows.bad)
    if not scores:
        msg = f"{tests.name}: none of {len(tests.tests)} tests can be read: {bad_rows.lines[0]}"
        raise DataError(msg)
    image = group = None
    if shapes == {2}:  # two choices of one in two; both right is 2! 2! of 4! orders of four scores
        text = _share(scores, _text, 1 / 4)
        image, group = _share(scores, _image, 1 / 4), _share(scores, _group, 1 / 6)
    else:
        text = _share(scores, _text, float(np.mean([1 / s.shape[1] for s in scores])))
    return PairAccuracy(tests.name, text, image, group, len(scores), bad_rows.lines, notes, dropped)


def _scores(
    model: ContrastiveModel,
    tests: PairTests,
    bad_rows: BadRows,
    cache: FeatureCache | None,
    workers: int,
) -> list[np.ndarray]:
    """Return the cosines ``[I, C]`` of each good test, each distinct sample embedded once."""
    images = list(dict.fromkeys(image for test in tests.tests for image in test.images))
    captions = list(dict.fromkeys(text for test in tests.tests for text in test.captions))
    bad: dict[str, dict[Any, str]] = {"image": {}, "text": {}}

    def embed(modality: str, samples: Sequence[Any]) -> dict[Any, Tensor]:
        def note(index: int, problem: str) -> None:
            bad[modality][samples[index]] = problem

        rows = model.embed(modality, samples, cache=cache, workers=workers, on_bad=note)
        return dict(zip(samples, rows, strict=True))

    image_D, text_D = embed("image", images), embed("text", captions)
    scores: list[np.ndarray] = []
    for test in tests.tests:
        wrong = [bad["image"][i] for i in test.images if i in bad["image"]]
        wrong += [bad["text"][c] for c in test.captions if c in bad["text"]]
        if wrong:
            bad_rows.report(test.source, wrong[0])
            continue
        # one by one, so that equal embeddings have equal scores
        cosines = [[float(image_D[i] @ text_D[c]) for c in test.captions] for i in test.images]
        scores.append(np.array(cosines))
    return scores


def _text(scores_IC: np.ndarray) -> bool:
    """Say whether each image's best caption is its own."""
    return all(scores_IC[i, i] > np.delete(scores_IC[i], i).max() for i in range(len(scores_IC)))


def _image(scores_IC: np.ndarray) -> bool:
    """Say whether each caption's best image is its own."""
    return _text(scores_IC.T)


def _group(scores_IC: np.ndarray) -> bool:
    return _text(scores_IC) and _image(scores_IC)


def _share(
    scores: Sequence[np.ndarray], passes: Callable[[np.ndarray], bool], chance: float
) -> Estimate:
    hits_T = np.array([passes(scores_IC) for scores_IC in scores])
    return bootstrap(hits_T, np.arange(len(hits_T)), chance)
