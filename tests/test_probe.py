"""Probes and neighbours: planted classes are found, slow references agree, mistakes are named."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from contrastive import FeatureCache, ModelSpec, Tower, build_model
from contrastive.encoders import CBOW, Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample, DataError, MissingExtra, SpecError
from contrastive.evaluation.evaluate import evaluate, top5_share
from contrastive.evaluation.labelled_splits import LabelledFeatures, Reader
from contrastive.evaluation.leakage import content_keys, seen_samples
from contrastive.evaluation.logistic import GRID, choose_strength, fit_and_score
from contrastive.evaluation.probe import draw, knn, linear_probe, probe
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.reporting.clip_benchmark import Subject, probe_results, write_results
from contrastive.reporting.plots import draw_probe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("sklearn"), reason="needs scikit-learn"),
]

F = 6  # features of a sample
CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


class Vectors:
    """Takes arrays as they are; those with a NaN are bad."""

    def __init__(self):
        self.seen = 0

    def __call__(self, samples):
        for sample in samples:
            if np.isnan(sample).any():
                raise BadSample("not a number")
        self.seen += len(samples)
        return {"x": torch.stack([torch.as_tensor(sample) for sample in samples])}

    def __repr__(self):
        return "Vectors()"


class Identity(EncoderModule):
    modality = "image"
    out_dim = F

    def __init__(self):
        super().__init__()
        self.preprocess = Vectors()
        self.layer = nn.Identity()

    def forward(self, x):
        return self.layer(x)


class Arrays(Encoder):
    modality: ClassVar[str] = "image"

    def build(self):
        return Identity()


@dataclass
class Planted:
    """Gaussian clouds, one around the corner of each class; every sample stands twice."""

    per_class: tuple[int, ...] = (20,) * 6
    noise: float = 0.5
    seed: int = 0
    copies: int = 2
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        self.classes = CLASSES[: len(self.per_class)]
        for label, count in enumerate(self.per_class):
            for _ in range(count):
                sample = 3 + np.eye(F)[label] + self.noise * random.standard_normal(F)
                row = {
                    "image": sample.astype(np.float32),
                    "label": self.classes[label],
                    "id": len(self.rows) // self.copies,
                    "source": f"planted {self.seed}: {len(self.rows)}",
                }
                self.rows += [row | {"text": f"{row['label']} {i}"} for i in range(self.copies)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def arrays(self):
        """Return each distinct sample once, and its class."""
        rows = self.rows[:: self.copies]
        return (
            np.stack([row["image"] for row in rows]),
            np.array([self.classes.index(row["label"]) for row in rows]),
        )


@pytest.fixture
def model():
    torch.manual_seed(0)
    towers = {
        "image": Tower(encoder=Arrays(), head=Linear(), frozen="encoder"),
        "text": Tower(encoder=CBOW(width=8, buckets=64), head=Linear()),
    }
    return build_model(ModelSpec(embed_dim=4, towers=towers, loss=InfoNCE())).eval()


def sklearn_probe(train, test, C):
    """A linear probe by scikit-learn's own tools, in a pipeline."""
    from sklearn.linear_model import LogisticRegression

    (x, y), (queries, truth) = train, test
    centre, scale = x.astype(float).mean(0), x.astype(float).std(0).mean()
    with warnings.catch_warnings(action="ignore"):
        fitted = LogisticRegression(C=C, max_iter=1000).fit((x - centre) / scale, y)
    return float(fitted.score((queries - centre) / scale, truth))


def linear(model, train, test, *, shots=(), seeds=3, C=None, **reading):
    data = Reader(model, **reading).read(train, test)
    return linear_probe(data, shots=shots, seeds=seeds, C=C)


def neighbours(model, train, test, *, k=20, temperature=0.07, **reading):
    data = Reader(model, **reading).read(train, test)
    return knn(data, k=k, temperature=temperature)


def loop_knn(train, test, k, temperature):
    """The vote of the k nearest by cosine, restated with loops in float64."""
    right = 0
    for query, truth in zip(*test, strict=True):
        cosines = []
        for sample, label in zip(*train, strict=True):
            a, b = query.astype(float), sample.astype(float)
            cosines.append((float(a @ b / math.sqrt((a @ a) * (b @ b))), int(label)))
        votes = Counter()
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] += math.exp(cosine / temperature)
        right += votes.most_common(1)[0][0] == truth
    return right / len(test[1])


def test_planted_classes_are_found_and_a_model_without_training_guesses_their_names(model):
    report = probe(model, Planted(noise=0.05), Planted(noise=0.05, seed=1), shots=(1, 2), k=5)
    assert [point.shots for point in report.linear] == [1, 2, None]
    assert [point.samples for point in report.linear] == [6, 12, 120]
    assert all(point.accuracy.top1.value == 1 for point in report.linear)
    assert report.knn.accuracy.top1.value == report.knn.accuracy.mean_per_class == 1
    assert report.zero_shot.top1.value < 0.6
    assert (report.train, report.test, report.classes) == (120, 120, 6)
    assert report.linear[-1].std is None
    assert report.linear[0].std == 0
    assert report.linear[0].accuracy.top1.chance == pytest.approx(1 / 6)


def test_features_without_a_signal_score_chance(model):
    point = linear(model, Planted(noise=300), Planted(noise=300, seed=1))[-1]
    top1 = point.accuracy.top1
    assert top1.low - 0.08 <= 1 / 6 <= top1.high + 0.08


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
def test_the_probe_is_that_of_scikit_learn(model, C):
    train, test = Planted(), Planted(seed=1)
    point = linear(model, train, test, C=C)[-1]
    expected = sklearn_probe(train.arrays(), test.arrays(), C)
    assert point.accuracy.top1.value == pytest.approx(expected, abs=1e-12)
    assert 0.4 < expected < 1
    assert point.C == [C]


def test_few_shots_are_those_of_scikit_learn_on_what_was_drawn(model):
    train, test = Planted(), Planted(seed=1)
    few, _ = linear(model, train, test, shots=[4], seeds=3, C=1.0)
    x, y = train.arrays()
    expected = []
    for seed in range(3):
        fit, _ = draw(y, 4, seed=seed)
        expected.append(sklearn_probe((x[fit], y[fit]), test.arrays(), 1.0))
    assert few.accuracy.top1.value == pytest.approx(np.mean(expected))
    assert few.std == pytest.approx(np.std(expected, ddof=1))
    assert few.std > 0


def test_the_regularisation_found_is_as_good_on_the_validation_part_as_any():
    x, y = Planted(noise=0.8).arrays()
    fit, held = draw(y, None, seed=0)
    train, validation = LabelledFeatures(x[fit], y[fit]), LabelledFeatures(x[held], y[held])

    def accuracy(C):
        scores = fit_and_score(train, validation.features_NF, C=C, classes=6)
        return (scores.argmax(1) == validation.truth_N).mean()

    chosen = choose_strength(train, validation, classes=6)
    assert chosen in GRID
    assert len(GRID) == 97
    assert (GRID[0], GRID[-1]) == pytest.approx((1e-6, 1e6))
    assert accuracy(chosen) >= max(map(accuracy, GRID[::16]))


def test_scaled_and_shifted_features_give_the_same_scores():
    x, y = Planted().arrays()
    queries = Planted(seed=1).arrays()[0]
    expected = fit_and_score(LabelledFeatures(x, y), queries, C=0.1, classes=6)
    found = fit_and_score(LabelledFeatures(1000 * x - 7, y), 1000 * queries - 7, C=0.1, classes=6)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(np.exp(expected).sum(1), 1)


def test_classes_without_samples_and_features_without_spread_are_borne():
    scores = fit_and_score(
        LabelledFeatures(np.ones((4, 2)), np.array([0, 0, 2, 2])), np.ones((1, 2)), C=1, classes=4
    )
    assert np.isneginf(scores[0, [1, 3]]).all()
    assert scores[0, 0] == pytest.approx(math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("shots", [1, 3, 6])
def test_shots_are_so_many_of_each_class_and_the_validation_part_is_apart(shots):
    _, y = Planted().arrays()
    fit, held = draw(y, shots, seed=5)
    assert set(Counter(y[fit].tolist()).values()) == {shots}
    assert set(Counter(y[held].tolist()).values()) == {min(shots, 4)}
    assert not set(fit.tolist()) & set(held.tolist())
    assert set(draw(y, shots - 1, seed=5)[0].tolist()) <= set(fit.tolist()) or shots == 1
    assert set(draw(y, shots, seed=6)[0].tolist()) != set(fit.tolist())


def test_a_fifth_of_all_samples_is_the_validation_part_and_no_class_is_used_up():
    y = np.array([0] * 20 + [1] * 2 + [2])
    fit, held = draw(y, None, seed=0)
    assert Counter(y[held].tolist()) == {0: 4, 1: 1}
    assert Counter(y[fit].tolist()) == {0: 16, 1: 1, 2: 1}


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.01), (120, 1.0)])
def test_neighbours_vote_as_in_the_loop(model, k, temperature):
    train, test = Planted(noise=0.8), Planted(noise=0.8, seed=1)
    found = neighbours(model, train, test, k=k, temperature=temperature)
    expected = loop_knn(train.arrays(), test.arrays(), k, temperature)
    assert found.accuracy.top1.value == pytest.approx(expected, abs=1e-12)
    assert 1 / 6 < expected < 1


def test_neighbours_are_the_same_in_chunks(model, monkeypatch):
    splits = Planted(noise=0.8), Planted(noise=0.8, seed=1)
    whole = neighbours(model, *splits)
    monkeypatch.setattr("contrastive.evaluation.probe.QUERIES", 7)
    assert neighbours(model, *splits) == whole


def test_the_same_seed_gives_the_same_report(model):
    splits = Planted(noise=0.8), Planted(noise=0.8, seed=1)
    assert probe(model, *splits, shots=(2,)) == probe(model, *splits, shots=(2,))


def test_embeddings_are_what_the_tower_gives(model):
    train, test = Planted(), Planted(seed=1)
    point = linear(model, train, test, inputs="embeddings", C=1.0)[-1]
    (x, y), (queries, truth) = train.arrays(), test.arrays()
    embedded = [model.embed("image", list(part)).numpy() for part in (x, queries)]
    expected = sklearn_probe((embedded[0], y), (embedded[1], truth), 1.0)
    assert point.accuracy.top1.value == pytest.approx(expected)


def test_texts_can_be_probed(model):
    report = probe(model, Planted(), Planted(seed=1), modality="text", inputs="embeddings", k=3)
    assert report.zero_shot is None
    assert report.train == 240, "each image's two texts differ"
    assert report.knn.accuracy.top1.value == 1, "the texts name the classes"


def test_cached_features_are_computed_once_and_change_nothing(model, tmp_path):
    splits = Planted(), Planted(seed=1)
    cache = FeatureCache(tmp_path)
    fresh = neighbours(model, *splits)
    preprocess = model.tower("image").encoder.preprocess
    preprocess.seen = 0
    assert neighbours(model, *splits, cache=cache) == fresh
    assert preprocess.seen == 240
    assert linear(model, *splits, cache=cache) == linear(model, *splits, cache=cache)
    assert preprocess.seen == 240


def test_zero_shot_is_what_evaluation_finds(model):
    report = probe(model, Planted(), Planted(seed=1))
    found = evaluate(model, Planted(seed=1)).classification
    assert report.zero_shot.top1.value == found.accuracy.value
    assert report.zero_shot.top5 == found.top5
    assert report.zero_shot.mean_per_class == pytest.approx(found.mean_per_class)


def test_top5_counts_the_five_best_and_is_nothing_for_four_classes():
    scores = np.random.default_rng(0).standard_normal((50, 9))
    truth = np.arange(50) % 9
    hits = [
        t in sorted(range(9), key=lambda c: -row[c])[:5]
        for row, t in zip(scores, truth, strict=True)
    ]
    assert top5_share(scores, truth) == pytest.approx(np.mean(hits))
    assert top5_share(scores[:, :4], truth) is None


def test_unequal_classes_are_weighed_equally_in_the_mean_per_class(model):
    test = Planted((60, 4, 4), noise=0.9, seed=1)
    report = probe(model, Planted((60, 4, 4), noise=0.9), test, k=30)
    accuracy = report.knn.accuracy
    assert accuracy.top1.chance == pytest.approx(60 / 68)
    assert accuracy.top5 is None
    assert accuracy.mean_per_class < accuracy.top1.value


def broken(samples, **changes):
    for index, change in changes.items():
        samples.rows[int(index[1:])].update(change)
    return samples


def without_classes():
    samples = Planted()
    samples.classes = ()
    return samples


@pytest.mark.parametrize(
    ("train", "test", "options", "said"),
    [
        (without_classes(), Planted(seed=1), {}, "split 'train' has no classes; a probe needs"),
        (Planted((5, 0)), Planted((5, 0), seed=1), {}, "has samples of one class; a probe needs"),
        (
            Planted((5, 5, 0, 0)),
            Planted((5, 5, 3, 1), seed=1),
            {},
            "class 'cat' has 3 samples in split 'test' but none in split 'train', and so have 1",
        ),
        (
            Planted((9, 3, 2)),
            Planted((2, 2, 2), seed=1),
            {"shots": (1, 4)},
            "class 'bee' has 3 samples in split 'train', 4 shots need 4, and 1 more classes",
        ),
        (
            Planted((2, 2)),
            Planted((2, 2), seed=1),
            {"shots": (2,)},
            "2 shots take every sample of split 'train', and none is left to choose",
        ),
        (Planted((1, 1)), Planted((2, 2), seed=1), {}, "fitting takes every sample of split"),
        (Planted(), Planted(), {}, "shares 120 of 120 image rows with split 'train'"),
        (
            broken(Planted(), r3={"label": ""}),
            Planted(seed=1),
            {},
            "planted 0: 2: has no label; a probe needs one",
        ),
        (
            broken(Planted(), r3={"label": "gnu"}),
            Planted(seed=1),
            {},
            "planted 0: 2: label 'gnu' is not one of the classes",
        ),
        (
            broken(Planted(), r3={"label": "bee"}),
            Planted(seed=1),
            {},
            "planted 0: 2: is of the classes 'ant' and 'bee'",
        ),
        (
            broken(
                Planted(), **{f"r{i}": {"image": np.full(F, np.nan, np.float32)} for i in range(20)}
            ),
            Planted(seed=1),
            {},
            "samples are bad",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(model, train, test, options, said):
    with pytest.raises(DataError) as error:
        linear(model, train, test, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_is_not_judged_by_what_it_was_trained_on(model):
    test = Planted(seed=1)
    model.seen = seen_samples(content_keys(test.rows, ["image"]))
    with pytest.raises(DataError, match="shares 120 of 120 image rows with the training split"):
        linear(model, Planted(), test)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modality": "audio"}, "this model has no audio tower; it has: image, text"),
        ({"inputs": "pixels"}, "a probe sees features or embeddings, not 'pixels'"),
        ({"shots": (0,)}, "shots is 0; give a whole number of at least 1"),
        ({"shots": (1,), "seeds": 0}, "seeds is 0; give a whole number of at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(model, options, said):
    with pytest.raises(SpecError, match=said):
        linear(model, Planted(), Planted(seed=1), **options)


def test_more_neighbours_than_samples_are_refused(model):
    with pytest.raises(DataError, match=r"k=20 neighbours, but split .* has 12 samples; give k=12"):
        neighbours(model, Planted((6, 6)), Planted((6, 6), seed=1))


def test_a_bad_sample_is_reported_and_left_out(model):
    nan = {"image": np.full(F, np.nan, np.float32)}
    report = probe(model, broken(Planted(), r0=nan, r1=nan), Planted(seed=1), k=5)
    assert report.train == 119
    assert report.faults == ["planted 0: 0: not a number"]


def test_without_scikit_learn_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtra, match=r'pip install "contrastive-kit\[probe\]"'):
        linear(model, Planted(), Planted(seed=1), C=1.0)


def test_the_curve_is_a_picture(model, tmp_path):
    pytest.importorskip("matplotlib")
    report = probe(model, Planted(), Planted(seed=1), shots=(1, 4))
    draw_probe(report, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no shots to draw"):
        draw_probe(probe(model, Planted(), Planted(seed=1)), tmp_path / "curve.png")


def test_results_have_the_names_of_clip_benchmark(model, tmp_path):
    report = probe(model, Planted(), Planted(seed=1), shots=(1,))
    assert json.loads(json.dumps(report.as_dict()))["linear"][0]["shots"] == 1
    results = probe_results(report, Subject("planted", "runs/a", "model", "test"))
    assert [r["metrics"]["fewshot_k"] for r in results] == [1, -1]
    assert {r["task"] for r in results} == {"linear_probe"}
    assert results[1]["metrics"]["lp_acc1"] == report.linear[-1].accuracy.top1.value
    paths = write_results(results, tmp_path / "new")
    assert len({*paths}) == 2
    assert [json.loads(path.read_text()) for path in paths] == results
    assert all(path.parent == tmp_path / "new" for path in paths)


def test_results_of_one_name_or_of_a_long_path_have_a_file_each(tmp_path):
    results = [Subject("a", "b/" * 200, "model", "test").result("t", {"n": n}) for n in range(2)]
    paths = write_results(results, tmp_path)
    assert [json.loads(path.read_text())["metrics"]["n"] for path in paths] == [0, 1]
    assert write_results(results, tmp_path) == paths, "those of an earlier call are replaced"
