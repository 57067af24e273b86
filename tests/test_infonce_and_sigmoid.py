"""InfoNCE and the sigmoid loss against a slow and obvious reference: loops over pairs, in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from contrastive.losses.functional import accuracy, collisions, infonce, sigmoid
from tests.pair_losses import (
    IDS,
    POSITIVES,
    call,
    ids_for,
    leaves,
    scalar,
    slow_infonce,
    slow_same,
    slow_sigmoid,
    unit,
    value_and_gradients,
)

torch.set_num_threads(1)
quick = settings(deadline=None, max_examples=40)


# Value and gradients


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 5, 4), (3, 6, 2), (6, 2, 5), (9, 9, 8)], ids=str)
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize(
    ("loss", "slow"), [(infonce, slow_infonce), (sigmoid, slow_sigmoid)], ids=["infonce", "sigmoid"]
)
def test_value_and_gradients_are_those_of_the_loops(loss, slow, positives, ids, shape):
    n, m, d = shape
    a_ids, b_ids = ids_for(ids, n, m)
    inputs = leaves(unit(n, d), unit(m, d, seed=1))
    value, gradients = value_and_gradients(loss, inputs, a_ids, b_ids, positives)
    true_value, true_gradients = value_and_gradients(slow, inputs, a_ids, b_ids, positives)
    torch.testing.assert_close(value, true_value, rtol=1e-12, atol=1e-14)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("ids", ["no ids", "captions", "rows without positives", "one group"])
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_gradients_are_finite_differences(loss, positives, ids):
    a_ids, b_ids = ids_for(ids, 4, 6)

    def of(a, b, log_scale, bias):
        return call(loss, a, b, a_ids, b_ids, log_scale, bias, positives)

    assert torch.autograd.gradcheck(of, leaves(unit(4, 3), unit(6, 3, seed=1)))


def test_ids_of_b_default_to_those_of_a():
    a, b, ids = unit(6, 4), unit(6, 4, seed=1), torch.tensor([0, 0, 1, 2, 2, 2])
    s = scalar(2.0)
    assert infonce(a, b, ids, log_scale=s) == infonce(a, b, ids, ids, log_scale=s)
    assert infonce(a, b, ids, log_scale=s) != infonce(a, b, log_scale=s)


@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("positives", ["multi", "mask"])
@pytest.mark.parametrize("ids", [(None, range(4)), (range(4), None), (range(4), range(3))], ids=str)
def test_ids_that_do_not_fit_are_refused(loss, positives, ids):
    a_ids, b_ids = (None if x is None else torch.tensor(list(x)) for x in ids)
    inputs = leaves(unit(4, 3), unit(5, 3))
    with pytest.raises(ValueError, match=r"^a_ids and b_ids have|^b_ids without a_ids$"):
        call(loss, *inputs[:2], a_ids, b_ids, *inputs[2:], positives)


# Properties


@st.composite
def batches(draw, square=False):
    n = draw(st.integers(1, 7))
    m = n if square else draw(st.integers(1, 7))
    seed = draw(st.integers(0, 10**6))
    ids = st.integers(0, draw(st.integers(0, 6)))
    a_ids = draw(st.lists(ids, min_size=n, max_size=n))
    b_ids = a_ids if square else draw(st.lists(ids, min_size=m, max_size=m))
    d = draw(st.integers(1, 5))
    return (
        unit(n, d, seed=seed),
        unit(m, d, seed=seed + 1),
        torch.tensor(a_ids),
        torch.tensor(b_ids),
    )


log_scales = st.floats(0.0, math.log(100))


@pytest.mark.slow
@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES))
def test_losses_equal_the_loops_on_any_batch(batch, log_scale, positives):
    a, b, a_ids, b_ids = batch
    for loss, slow in ((infonce, slow_infonce), (sigmoid, slow_sigmoid)):
        arguments = (a, b, a_ids, b_ids, scalar(log_scale), scalar(-3.0), positives)
        torch.testing.assert_close(
            call(loss, *arguments), call(slow, *arguments), rtol=1e-9, atol=1e-12
        )


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES))
def test_losses_are_symmetric(batch, log_scale, positives):
    a, b, a_ids, b_ids = batch
    rest = (scalar(log_scale), scalar(-3.0), positives)
    for loss in (infonce, sigmoid):
        there = call(loss, a, b, a_ids, b_ids, *rest)
        back = call(loss, b, a, b_ids, a_ids, *rest)
        torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@quick
@given(batches(square=True), log_scales, st.sampled_from(POSITIVES), st.randoms())
def test_order_of_pairs_does_not_matter(batch, log_scale, positives, random):
    a, b, ids, _ = batch
    order = torch.tensor(random.sample(range(len(a)), len(a)))
    for loss in (infonce, sigmoid):
        inputs = leaves(a, b, log_scale)
        shuffled = leaves(a[order], b[order], log_scale)
        value, gradients = value_and_gradients(loss, inputs, ids, ids, positives)
        other, others = value_and_gradients(loss, shuffled, ids[order], ids[order], positives)
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-14)
        for i, gradient in enumerate(gradients):
            expected = gradient[order] if i < 2 else gradient
            torch.testing.assert_close(others[i], expected, rtol=1e-10, atol=1e-13)


@quick
@given(batches(), log_scales, st.randoms())
def test_with_multi_only_ids_matter_and_not_places(batch, log_scale, random):
    a, b, a_ids, b_ids = batch
    order = torch.tensor(random.sample(range(len(b)), len(b)))
    s = scalar(log_scale)
    there = infonce(a, b, a_ids, b_ids, log_scale=s)
    torch.testing.assert_close(there, infonce(a, b[order], a_ids, b_ids[order], log_scale=s))


@quick
@given(batches(square=True), log_scales)
def test_without_equal_ids_all_settings_are_the_loss_of_clip(batch, log_scale):
    a, b, _, _ = batch
    labels = torch.arange(len(a))
    logits = math.exp(log_scale) * a @ b.T
    clip = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    for positives in POSITIVES:
        for ids in (None, labels + 5):
            loss = infonce(a, b, ids, log_scale=scalar(log_scale), positives=positives)
            torch.testing.assert_close(loss, clip, rtol=1e-10, atol=1e-13)


@quick
@given(st.lists(st.integers(-3, 6), min_size=1, max_size=12))
def test_collisions_count_rows_that_share_a_group(ids):
    slow = sum(any(x == y for j, y in enumerate(ids) if j != i) for i, x in enumerate(ids))
    assert collisions(torch.tensor(ids)).item() == slow


@quick
@given(batches())
def test_accuracy_is_that_of_the_loops(batch):
    a, b, a_ids, b_ids = batch
    for ids in ((a_ids, b_ids), (None, None)):
        same = slow_same(*ids)
        logits = (a @ b.T).tolist()
        shares = []
        for n, m, at in (
            (len(a), len(b), lambda i, j: (i, j)),
            (len(b), len(a), lambda j, i: (i, j)),
        ):
            right = []
            for i in range(n):
                if any(same(*at(i, j)) for j in range(m)):
                    best = max(range(m), key=lambda j: logits[at(i, j)[0]][at(i, j)[1]])
                    right.append(same(*at(i, best)))
            shares.append(sum(right) / len(right) if right else 0.0)
        assert accuracy(a @ b.T, *ids).item() == pytest.approx(sum(shares) / 2)
