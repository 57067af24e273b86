"""Several processes compute the loss of one: value, and gradients as their mean.

Each number of processes is started once; ``tests.several`` is what they do.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from tests.several import MODULES, Towers, batches, cases, is_by_night, main

pytestmark = pytest.mark.slow

SIZE = 4
CASES = cases()


@pytest.fixture(scope="session")
def folder_of(shared_folder, in_ranks):
    """Run the processes, once for all tests of the day or night; return where they leave what."""

    def run(by_night):
        return shared_folder(f"several-{by_night}", lambda to: in_ranks(main, SIZE, to, by_night))

    return run


@pytest.fixture(scope="session")
def found_by(folder_of):
    """Return a function to what each process found by day or by night."""

    @cache
    def found(by_night):
        folder = folder_of(by_night)
        return [load_file(folder / f"found-{rank}.safetensors") for rank in range(SIZE)]

    return found


@pytest.fixture
def found(found_by):
    return found_by(False)


def gather_global_batch(case, size):
    """Return the whole batch, and which rows of a and b each process has in it."""
    parts = case.inputs(size)
    k = [min(len(p["a"]), len(p["b"])) for p in parts]

    def in_order(rows):
        pairs = list(zip(rows, k, strict=True))
        return torch.cat([x[:n] for x, n in pairs] + [x[n:] for x, n in pairs])

    def ids_of(part, side):
        return part["a_ids"] if part[f"{side}_ids"] is None else part[f"{side}_ids"]

    sides = {side: in_order([p[side] for p in parts]) for side in "ab"}
    places = {}
    for side in "ab":
        counts = [len(p[side]) for p in parts]
        tags = in_order([torch.full((n,), rank) for rank, n in enumerate(counts)])
        places[side] = [(tags == rank).nonzero()[:, 0] for rank in range(size)]
    if case.with_ids:
        sides |= {f"{s}_ids": in_order([ids_of(p, s) for p in parts]) for s in "ab"}
    return sides, places


@pytest.mark.parametrize(
    ("case", "size", "by_night"),
    [
        pytest.param(case, size, night, id=f"{case}-{size}", marks=[pytest.mark.nightly] * night)
        for number, case in enumerate(CASES)
        for size in (2, SIZE)
        for night in [is_by_night(number, size)]
    ],
)
def test_the_loss_of_several_processes_is_that_of_one(found_by, case, size, by_night):
    sides, places = gather_global_batch(case, size)
    leaves = {side: sides[side].double().requires_grad_() for side in "ab"}
    scalars = {k: x.detach().double().requires_grad_() for k, x in case.scalars().items()}
    rows = [
        torch.nn.functional.normalize(x, dim=1) if case.normalize else x for x in leaves.values()
    ]
    ids = [sides.get("a_ids"), sides.get("b_ids")]
    truth = case.truth(*rows, *ids, **scalars)
    (truth * case.outer).backward()

    close = {"rtol": 1e-10, "atol": 1e-12}
    if case.dtype == torch.float32:
        close = {"rtol": 2e-5, "atol": 2e-6}
    results = found_by(by_night)[:size]
    for rank, result in enumerate(results):
        value = result[f"{size}|{case}|value"].double()
        torch.testing.assert_close(value, truth.detach(), **close)
        for side in "ab":
            share = size * leaves[side].grad[places[side][rank]]
            torch.testing.assert_close(result[f"{size}|{case}|{side}"].double(), share, **close)
    for name, scalar in scalars.items():
        mean = sum(result[f"{size}|{case}|{name}"].double() for result in results) / size
        torch.testing.assert_close(mean, scalar.grad, **close)


def test_a_ring_sends_what_its_formula_says_and_holds_less(found):
    w, m, d = SIZE, 256, 32
    forward, backward = (w - 1) * m * d * 4 + 8 * w * m, (w - 1) * m * (d * 4 + 12) + 4 * w * m * d
    sent = {"infonce": forward + backward, "sigmoid": (w - 1) * m * d * 4 + 4 * w * m * d}
    for result in found:
        assert {name: int(result[f"{name}|ring|sent"]) for name in sent} == sent
        assert int(result["infonce|gather|sent"]) == 0
        assert result["infonce|ring|peak"] < 0.4 * result["infonce|gather|peak"]


@pytest.mark.parametrize("name", MODULES)
def test_towers_and_temperature_get_the_gradients_of_one_process(found, name):
    """In DistributedDataParallel, two batches accumulated; local: the mean of the losses."""
    config = MODULES[name]
    model = Towers(config.build())
    values = []
    for shares in batches(SIZE):
        joined = {k: torch.cat([p[k] for p in shares]) for k in ("a", "b", "a_ids")}
        parts = [joined] if config.negatives == "global" else shares
        losses = [model(p["a"], p["b"], p["a_ids"]) for p in parts]
        (sum(losses) / len(losses) / 2).backward()
        values.append([loss.item() for loss in losses])
    for rank, result in enumerate(found):
        for i, losses in enumerate(values):
            one = losses[0] if config.negatives == "global" else losses[rank]
            assert float(result[f"{name}|{i}"]) == pytest.approx(one, rel=1e-10)
        for parameter, tensor in model.named_parameters():
            torch.testing.assert_close(
                result[f"{name}|{parameter}"], tensor.grad, rtol=1e-10, atol=1e-12, msg=parameter
            )


def test_unmatched_rows_that_would_become_matched_are_refused_on_every_rank(folder_of):
    told = {(folder_of(False) / f"error-{rank}").read_text() for rank in range(SIZE)}
    assert told == {
        "the ranks have [2, 3, 3, 3] rows of a and [3, 2, 2, 2] of b; unmatched rows have to be "
        "all of a or all of b"
    }
