"""``torch.compile`` takes each loss as one graph, by each execution, and changes no number."""

from __future__ import annotations

import pytest
import torch

from contrastive.losses import (
    DCL,
    Distillation,
    HardNegative,
    InfoNCE,
    Matryoshka,
    Queue,
    Sigmoid,
    SupCon,
)
from tests.pair_losses import unit
from tests.row_losses import call, gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("fresh_compiler"),
    # the compiler of torch 2.10 does so
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
]

LOSSES = {
    "infonce": lambda how: InfoNCE(execution=how),
    "infonce, one way": lambda how: InfoNCE(
        execution=how, direction="a_to_b", positives="mask", label_smoothing=0.1
    ),
    "sigmoid": lambda how: Sigmoid(execution=how),
    "dcl": lambda how: DCL(execution=how, candidates="both", sigma=0.5),
    "hard-negative": lambda how: HardNegative(execution=how, candidates="both", tau_plus=0.1),
    "supcon": lambda how: SupCon(execution=how),
    "matryoshka": lambda how: Matryoshka(loss=InfoNCE(execution=how), widths=(4, 8)),
    "queue": lambda how: Queue(loss=InfoNCE(execution=how), size=16),
    "distillation": lambda how: Distillation(loss=InfoNCE(execution=how)),
}


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("with_ids", [True, pytest.param(False, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("how", ["chunked", pytest.param("eager", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_compiled_loss_is_one_graph_with_the_same_numbers(name, how, with_ids):
    ids = torch.arange(24) // 2 if with_ids else None
    plain, compiled = (LOSSES[name](how).build() for _ in range(2))
    found = []
    for module in (plain, torch.compile(compiled, fullgraph=True, backend="aot_eager")):
        a, b = (unit(24, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
        loss, _ = call(module, a, b, ids)
        parameters = plain if module is plain else compiled
        found.append([loss.detach(), *gradients(loss, (a, b, *parameters.parameters()))])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
