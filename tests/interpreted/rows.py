"""Losses of sums over rows by the fused kernels, in Triton's interpreter, against float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from contrastive.losses.dcl import dcl
from contrastive.losses.supcon import supcon
from tests.interpreted.judge import embeddings, gradients, ids, worst

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
nightly = pytest.mark.nightly  # by day, each setting in some case
IDS = {
    "no ids": (None, None),
    "some ids": ids("groups"),
    "one group": (torch.full((21,), 7), torch.full((37,), 7)),
    "distinct ids": (torch.arange(21), torch.arange(37)),
}


def error(loss, sides, a_ids, b_ids, scale, **given):
    """Return the error of the fused loss, beside that of all logits in float64."""
    found = []
    for execution, dtype in (("fused", torch.float32), ("eager", torch.float64)):
        a, b = (x.detach().to(dtype).requires_grad_() for x in sides)
        log_scale = torch.tensor(math.log(scale), dtype=dtype, requires_grad=True)
        value = loss(a, b, a_ids, b_ids, log_scale=log_scale, execution=execution, **given)
        found.append(gradients(value, (a, b, log_scale)))
    return worst(*found)


# logits of 100 are rounded by 1e-5, and what the gradient of the scale adds up cancels
@pytest.mark.parametrize(
    ("scale", "most"), [pytest.param(14.0, 1e-5, marks=nightly), (100.0, 5e-4)]
)
@pytest.mark.parametrize("name", IDS)
def test_supcon_is_that_of_all_logits(name, scale, most):
    assert error(supcon, embeddings(fit=0.5), *IDS[name], scale) < most


@pytest.mark.parametrize(
    "name", ["some ids", "no ids", *(pytest.param(x, marks=nightly) for x in [*IDS][2:])]
)
def test_sums_of_supcon_too_small_for_the_shift_are_taken_again(name):
    a, b = embeddings(fit=0.5)
    cone = torch.zeros(a.shape[1])
    cone[0] = 3
    sides = (torch.nn.functional.normalize(x, dim=1) for x in (a + cone, b - cone))
    assert error(supcon, list(sides), *IDS[name], 300.0) < 2e-4


@pytest.mark.parametrize("positives", ["multi", pytest.param("mask", marks=nightly)])
@pytest.mark.parametrize("name", ["no ids", "some ids"])
def test_dcl_of_both_sides_is_that_of_all_logits(name, positives):
    given = {"positives": positives, "candidates": "both"}
    assert error(dcl, embeddings(fit=0.5), *IDS[name], 14.0, **given) < 1e-5


# torch's own, in 2.11
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "loss", [supcon, pytest.param(partial(dcl, candidates="both"), marks=nightly)]
)
def test_a_compiled_loss_is_one_graph_with_the_same_numbers(loss):
    def compute(a, b, log_scale):
        return loss(a, b, *IDS["some ids"], log_scale=log_scale, execution="fused")

    found = []
    for way in (compute, torch.compile(compute, backend="aot_eager", fullgraph=True)):
        leaves = [x.clone().requires_grad_() for x in (*embeddings(), torch.tensor(2.0))]
        found.append(gradients(way(*leaves), leaves))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y)
