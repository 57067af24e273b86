"""Calibration in numbers: the logistic fit, the errors that are told, results among fewer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.errors import DataError
from contrastive.evaluation.calibration_error import rejection, reliability
from contrastive.evaluation.logistic_fit import fit_logistic, fit_offset
from contrastive.evaluation.result_scores import direction_scores
from contrastive.inference.embed_distinct import EmbeddedModality
from contrastive.model.calibration_file import Growth, ResultFit, SearchFit, SizeFit
from contrastive.model.scores import result_odds, rounded_down


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def drawn(seed: int, count: int = 400, slope: float = 3.0):
    random = np.random.default_rng(seed)
    scores = random.normal(0.3, 0.5, count)
    return scores, random.random(count) < sigmoid(slope * scores - 1), random.random(count) + 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_is_where_the_likelihood_is_flat(seed, weighted):
    scores, yes, weights = drawn(seed)
    weights = weights if weighted else np.ones(len(scores))
    fit = fit_logistic(scores, yes, weights if weighted else None)
    left = weights * (sigmoid(fit.slope * scores + fit.offset) - yes)
    assert abs(left.sum()) < 1e-7
    assert abs(left @ scores) < 1e-7
    assert not fit.separable


def test_the_covariance_is_that_of_fits_to_other_draws():
    fits = [fit_logistic(*drawn(seed)[:2]) for seed in range(200)]
    found = np.cov([[fit.slope, fit.offset] for fit in fits], rowvar=False)
    said = np.mean([fit.covariance_22 for fit in fits], axis=0)
    assert said == pytest.approx(found, rel=0.3)


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # what it calls
def test_the_fit_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    scores, yes, weights = drawn(7)
    reference = linear.LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
    reference.fit(scores[:, None], yes, weights)
    fit = fit_logistic(scores, yes, weights)
    assert fit.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert fit.offset == pytest.approx(reference.intercept_[0], rel=1e-4)


pairs = st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=4, max_size=40)


@settings(deadline=None, max_examples=60)
@given(pairs, st.sampled_from([0.01, 0.5, 7.0]), st.sampled_from([-30.0, 0.0, 2.0]))
def test_another_scale_of_the_scores_changes_no_probability(drawn, times, plus):
    scores = np.array([score for score, _ in drawn]) / 10
    yes = np.array([one for _, one in drawn])
    fit, other = fit_logistic(scores, yes), fit_logistic(times * scores + plus, yes)
    at = np.linspace(-5, 5, 11)
    found = sigmoid(fit.slope * at + fit.offset)
    assert found == pytest.approx(
        sigmoid(other.slope * (times * at + plus) + other.offset), abs=1e-5
    )
    rises = np.diff(found)
    assert (rises >= -1e-12).all() or (rises <= 1e-12).all()


@pytest.mark.parametrize(
    ("scores", "yes"),
    [
        ([0, 1, 2, 3], [False, False, True, True]),
        ([0, 1, 1, 2], [False, False, True, True]),
        ([1, 2, 3], [True, True, True]),
        ([1, 2, 3], [False, False, False]),
        ([1, 1, 1], [False, False, False]),
    ],
)
def test_what_a_threshold_separates_has_a_fit_that_is_finite(scores, yes):
    fit = fit_logistic(np.array(scores), np.array(yes))
    assert fit.separable
    assert np.isfinite([fit.slope, fit.offset]).all()
    mean = sigmoid(fit.slope * np.array(scores) + fit.offset).mean()
    count, total = sum(yes), len(yes)
    smoothed = count * (count + 1) / (count + 2) + (total - count) / (total - count + 2)
    assert mean == pytest.approx(smoothed / total, abs=1e-6)


def test_an_offset_makes_as_many_yes_expected():
    scores, yes, _ = drawn(1)
    offset = fit_offset(scores, yes, 2.0)
    expected = (yes.sum() + 0.5) / (len(yes) + 1)
    assert sigmoid(2.0 * scores + offset).mean() == pytest.approx(expected)


def test_the_calibration_error_is_the_mean_distance_over_bins():
    random = np.random.default_rng(0)
    said = random.random(1000)
    right = random.random(1000) < said**2
    found = reliability(said, right)
    order = sorted(range(1000), key=lambda i: said[i])
    error = 0.0
    for start in range(0, 1000, 100):
        part = order[start : start + 100]
        error += abs(sum(said[i] for i in part) - sum(bool(right[i]) for i in part)) / 1000
    assert found.error == pytest.approx(error)
    assert [one.pairs for one in found.bins] == [100] * 10
    perfect = reliability(said, random.random(1000) < said)
    assert abs(perfect.error - perfect.of_perfect) < 0.02 < found.error - found.of_perfect
    with pytest.raises(DataError, match="9 pairs are too few for 10 bins; give more"):
        reliability(said[:9], right[:9])


def test_the_area_of_rejection_counts_pairs():
    random = np.random.default_rng(0)
    hits, absent = random.normal(1, 1, 100).round(1), random.normal(0, 1, 80).round(1)
    found = rejection(hits, absent)
    area = np.mean([(h > a) + (h == a) / 2 for h in hits for a in absent])
    assert found.area == pytest.approx(area)
    assert found.lost == np.mean(hits < found.score) <= 0.05
    assert found.rejected == np.mean(absent < found.score)
    assert np.mean(hits <= found.score) > 0.05, "no higher threshold loses as few"
    for at, lost, rejected in found.curve:
        assert (lost, rejected) == (np.mean(hits < at), np.mean(absent < at))
    with pytest.raises(DataError, match="no query has a right best result"):
        rejection(hits[:0], absent)


def embedded(rows, ids):
    return EmbeddedModality(torch.tensor(rows), torch.tensor(ids), list(range(len(ids))))


def test_results_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr("contrastive.evaluation.result_scores.CHUNK_BYTES", 700)  # 7 queries
    random = np.random.default_rng(0)
    queries, targets = random.normal(size=(20, 4)), random.normal(size=(12, 4))
    query_ids, target_ids = random.integers(0, 8, 20), random.integers(0, 8, 12)
    found = direction_scores(
        embedded(queries, query_ids), embedded(targets, target_ids), lambda a, b: a @ b.T
    )
    best, right, wrongs, further, rights = [], [], [], [], []
    for row, one in zip(queries, query_ids, strict=True):
        of_it = [
            (float(row @ other), bool(one == id_))
            for other, id_ in zip(targets, target_ids, strict=True)
        ]
        if not any(is_right for _, is_right in of_it):
            continue
        of_it.sort(key=lambda each: -each[0])
        best.append(of_it[0][0])
        right.append(of_it[0][1])
        wrongs.append(max(score for score, is_right in of_it if not is_right))
        further += [score for score, _ in of_it[1:10]]
        rights += [score for score, is_right in of_it if is_right]
    assert found.all.best_Q == pytest.approx(best)
    assert found.all.is_right_Q.tolist() == right
    assert found.best_wrong_Q == pytest.approx(wrongs)
    assert found.all.further == pytest.approx(further)
    assert sorted(found.right_R) == pytest.approx(sorted(rights))
    assert found.right_targets == pytest.approx(len(rights) / len(best))
    assert len(found.right_R) + len(found.wrong_W) == len(best) * 12


def test_fewer_wrong_targets_are_some_of_them():
    random = np.random.default_rng(0)
    rows = [random.normal(size=(300, 8)) for _ in range(2)]
    sides = [embedded(each, np.arange(300)) for each in rows]
    found = direction_scores(*sides, lambda a, b: a @ b.T)
    sizes = [one.wrong_targets for one in found.results]
    assert sizes == [299, 150, 75, 37, 18, 9, 4, 2, 1]
    for more, fewer in zip(found.results, found.results[1:], strict=False):
        assert (fewer.best_Q <= more.best_Q).all()
    for one in found.results:  # of noise, the right one is the best by chance
        chance = 1 / (one.wrong_targets + 1)
        spread = (chance * (1 - chance) / 300) ** 0.5
        assert abs(one.is_right_Q.mean() - chance) < 4 * spread + 1e-9
        assert len(one.further) == 300 * min(9, one.wrong_targets)


def search_fit() -> SearchFit:
    def size(wrong, slope, offset, scores):
        one = ResultFit(slope=slope, offset=offset, scores=scores)
        return SizeFit(wrong_targets=wrong, best=one, further=one)

    growth = Growth(odds=0.5, score=0.1)
    return SearchFit(
        queries=9,
        targets=17,
        right_targets=1.0,
        sizes=[size(4, 2.0, 1.0, [0.0, 1.0, 2.0]), size(16, 4.0, -1.0, [1.0, 2.0, 3.0])],
        best_growth=growth,
        further_growth=growth,
    )


@pytest.mark.parametrize(
    ("wrong", "slope", "offset", "lowest"),
    [
        (1, 2, 1, 0),
        (4, 2, 1, 0),
        (8, 3, 0, 0.5),  # half-way, in the logarithm
        (16, 4, -1, 1),
        (16 * np.e, 4, -1.5, 1.1),
    ],
)
def test_odds_go_with_the_logarithm_of_how_many_are_wrong(wrong, slope, offset, lowest):
    found = result_odds(search_fit(), wrong)
    assert (found.slope, found.offset) == pytest.approx((slope, offset))
    assert found.scores_G == pytest.approx(np.arange(3) + lowest)


def test_a_threshold_is_where_what_is_above_it_is_right_as_often_as_asked():
    fit = (
        search_fit()
        .sizes[0]
        .best.model_copy(
            update={"slope": 5.0, "offset": -2.0, "scores": np.linspace(-1, 1, 201).tolist()}
        )
    )
    size = search_fit().sizes[0].model_copy(update={"best": fit})
    odds = result_odds(search_fit().model_copy(update={"sizes": [size]}), 4)
    for precision in (0.5, 0.7, 0.9):
        at, most = odds.threshold(precision)
        assert most > 0.9
        above = odds.scores_G[odds.scores_G >= at]
        assert sigmoid(5 * above - 2).mean() == pytest.approx(precision, abs=0.01)
    assert odds.threshold(0.99) == (np.inf, most)
    assert odds.threshold(0.0)[0] == -np.inf
    assert [rounded_down(share) for share in (0.999, 0.5, 1.0)] == ["0.99", "0.50", "1.00"]


def test_beyond_the_fit_precisions_err_on_the_safe_side():
    one = ResultFit(slope=4.0, offset=-1.0, scores=[0.0, 1.0, 2.0], variance=[0.1, -0.1, 0.3])
    size = SizeFit(wrong_targets=16, best=one, further=one)
    fit = search_fit().model_copy(update={"sizes": [size]})
    scores = np.arange(3)
    error = np.sqrt(0.1 * scores**2 - 0.2 * scores + 0.3)
    assert result_odds(fit, 16).errors_G == pytest.approx(0 * scores)
    for more, errors in ((2**0.5, 0.5), (2, 1), (9, 1)):
        found = result_odds(fit, 16 * more)
        assert found.errors_G == pytest.approx(errors * error)
        logits = 4 * found.scores_G + found.offset
        assert found.precisions()[-1] == pytest.approx(sigmoid(logits - errors * error)[-1])
        assert found.probability(found.scores_G) == pytest.approx(sigmoid(logits))
