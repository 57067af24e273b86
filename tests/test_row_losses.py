"""DCL, hard negatives and SupCon against loops written from the papers, in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.losses.backends import logit_chunks
from contrastive.losses.dcl import dcl
from contrastive.losses.hard_negative import hard_negative
from contrastive.losses.supcon import supcon
from tests.pair_losses import POSITIVES, scalar, unit
from tests.row_losses import (
    CANDIDATES,
    DIRECTIONS,
    FUNCTIONS,
    IDS,
    SHAPES,
    assert_same,
    batches,
    gradients,
    ids_for,
    leaves,
    log_scales,
    quick,
)

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradients_are_those_of_the_loops(name, ids, shape):
    fast, slow = FUNCTIONS[name]
    inputs = leaves(*shape)
    batch = (*inputs[:2], *ids_for(ids, *shape[:2]))
    for positives, candidates in itertools.product(POSITIVES, CANDIDATES):
        how = {"log_scale": inputs[2], "positives": positives, "candidates": candidates}
        assert_same(fast(*batch, **how), slow(*batch, **how), inputs)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_direction_is_one_side_of_the_loops(name, direction):
    fast, slow = FUNCTIONS[name]
    inputs = leaves(5, 7, 4)
    batch = (*inputs[:2], *ids_for("captions", 5, 7))
    how = {"log_scale": inputs[2], "direction": direction}
    assert_same(fast(*batch, **how), slow(*batch, **how), inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        # by day, each function with half of the ids, and each ids with half of the functions
        pytest.param(name, ids, marks=[pytest.mark.nightly] if (i + j) % 2 else [])
        for i, name in enumerate([*FUNCTIONS, "supcon"])
        for j, ids in enumerate(["no ids", "captions", "no partners", "one group"])
    ],
)
def test_gradients_are_finite_differences(name, ids):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    a_ids, b_ids = ids_for(ids, 4, 6)
    for how in [{}] if name == "supcon" else [{}, {"candidates": "both", "positives": "mask"}]:

        def of(a, b, log_scale, how=how):
            return function(a, b, a_ids, b_ids, log_scale=log_scale, **how)

        assert torch.autograd.gradcheck(of, leaves(4, 6, 3))


@pytest.mark.slow
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
@pytest.mark.parametrize("rows", [1, 4])
def test_chunks_give_the_same(name, ids, rows, monkeypatch):
    monkeypatch.setattr(logit_chunks, "CHUNK_ROWS", (rows, rows))
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    inputs = leaves(9, 7, 5)
    batch = (*inputs[:2], *ids_for(ids, 9, 7))
    for how in [{}] if name == "supcon" else [{}, {"candidates": "both"}]:
        by_chunks, eager = (
            function(*batch, log_scale=inputs[2], execution=execution, **how)
            for execution in ("chunked", "eager")
        )
        assert_same(by_chunks, eager, inputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("log_scale", [0.0, math.log(100)])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
def test_no_step_of_the_backward_pass_is_nan(name, ids, log_scale):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    for seed in (0, 1):  # with seed 0, partners are the same
        a, b = unit(5, 3, dtype=torch.float32), unit(7, 3, seed=seed, dtype=torch.float32)
        inputs = a.requires_grad_(), b.requires_grad_(), scalar(log_scale, torch.float32)
        with torch.autograd.detect_anomaly():
            loss = function(*inputs[:2], *ids_for(ids, 5, 7), log_scale=inputs[2])
            assert loss.isfinite()
            assert all(g.isfinite().all() for g in gradients(loss, inputs))


@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
def test_autocast_changes_nothing(name):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    half = [unit(16, 8, seed=seed).bfloat16() for seed in (0, 1)]
    ids, log_scale = torch.arange(16) // 2, scalar(2.0, torch.float32)
    plain = function(*(x.float() for x in half), ids, log_scale=log_scale)
    with torch.autocast("cpu", torch.bfloat16):
        cast = function(*half, ids, log_scale=log_scale)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)


@pytest.mark.slow
@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES), st.randoms())
def test_order_and_sides_do_not_matter(batch, log_scale, positives, random):
    a, b, ids = batch
    order = torch.tensor(random.sample(range(len(a)), len(a)))
    for name in [*FUNCTIONS, "supcon"]:
        function = supcon if name == "supcon" else FUNCTIONS[name][0]
        how = {"log_scale": log_scale} | ({} if name == "supcon" else {"positives": positives})
        loss = function(a, b, ids, **how)
        shuffled = function(a[order], b[order], ids[order], **how)
        torch.testing.assert_close(shuffled, loss, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(function(b, a, ids, **how), loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", [dcl, partial(hard_negative, beta=0.5), supcon])
def test_ids_that_do_not_fit_are_refused(function):
    with pytest.raises(ValueError, match=r"^a_ids and b_ids have"):
        function(unit(4, 3), unit(5, 3), torch.arange(4), log_scale=scalar(1.0))
