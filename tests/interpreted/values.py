"""Values and gradients of the fused losses, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.row_stats import row_stats
from tests.interpreted.judge import (
    KINDS,
    LOSSES,
    N,
    embeddings,
    found,
    fused,
    ids,
    labels_of,
    wanted,
    worst,
)

# of numbers beyond the last row or column, which are not used
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
nightly = pytest.mark.nightly  # by day, each setting in some case


def error(loss, a, b, kind, a_ids, b_ids, sweep, **given):
    return worst(
        found(loss, a, b, kind, a_ids, b_ids, sweep=sweep, **given),
        wanted(loss, a, b, kind, a_ids, b_ids, **given),
    )


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        pytest.param(loss, kind, marks=[nightly] if (i + j) % 3 == 2 else [])
        for i, loss in enumerate(LOSSES)
        for j, kind in enumerate(KINDS)
    ],
)
def test_a_loss_is_that_of_the_plain_function(loss, kind):
    assert error(loss, *embeddings(), kind, *ids(kind), fused(), scale=14.0) < 2e-6


@pytest.mark.parametrize(("loss", "kind"), list(zip(LOSSES[:3], KINDS, strict=True)))
def test_half_precision_costs_no_more_than_its_rounding(loss, kind):
    a, b = embeddings(dtype=torch.float16)
    assert error(loss, a, b, kind, *ids(kind), fused(), scale=14.0) < 1e-3


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("masked", {"columns": 32}),
        ("groups", {"low_memory": True}),
        ("masked", {"cache_bytes": 2**20}),
        pytest.param("groups", {"columns": 32}, marks=nightly),
        pytest.param("masked", {"low_memory": True}, marks=nightly),
        pytest.param("groups", {"cache_bytes": 2**20}, marks=nightly),
    ],
    ids=str,
)
def test_other_ways_lead_to_the_same_loss(kind, choices):
    assert error("infonce", *embeddings(), kind, *ids(kind), fused(**choices), scale=14.0) < 2e-6


@pytest.mark.parametrize("choices", [{"columns": 32}, {"low_memory": True}], ids=str)
@pytest.mark.parametrize("loss", ["one_sided", "sigmoid"])
def test_other_ways_lead_to_the_same_loss_of_one_sweep(loss, choices):
    kind = "masked"
    assert error(loss, *embeddings(), kind, *ids(kind), fused(**choices), scale=14.0) < 2e-6


def test_more_columns_than_rows_or_fewer():
    a, b = embeddings(37, 21)
    a_ids, b_ids = ids("masked", 37, 21)
    for loss in LOSSES[::2]:
        assert error(loss, a, b, "masked", a_ids, b_ids, fused(), scale=14.0) < 2e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_raw_embeddings_are_given_length_1(loss):
    a, b = embeddings(unit=False)
    given = {"scale": 14.0, "normalize": True}
    assert error(loss, a, b, "diagonal", None, None, fused(), **given) < 2e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_no_exponent_overflows_at_a_large_scale(loss):
    # logits of 100 are rounded by 1e-5, and what the gradient of the scale adds up cancels
    assert error(loss, *embeddings(fit=0.5), "diagonal", None, None, fused(), scale=100.0) < 5e-4


@pytest.mark.parametrize("choices", [{}, {"cache_bytes": 2**20}], ids=str)
@pytest.mark.parametrize("loss", ["infonce", "one_sided", "infonce_in_passes"])
def test_a_tiny_loss_keeps_its_digits(loss, choices):
    a, b = embeddings(N, N, fit=0.98)
    value = wanted(loss, a, b, "diagonal", None, None, scale=60.0)[0]
    assert 0 < value < 1e-6
    assert error(loss, a, b, "diagonal", None, None, fused(**choices), scale=60.0) < 1e-4


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("diagonal", {"cache_bytes": 2**20}),
        ("masked", {}),
        ("groups", {}),
    ],
)
def test_sums_too_small_for_the_shift_are_taken_again(kind, choices):
    """One pair alike among opposed cones: the shift that suits it makes all else vanish."""
    a, b = opposed()
    a_ids, b_ids = ids(kind, len(a), len(b))
    sweep = fused(**choices)
    labels = labels_of(a, b, kind, a_ids, b_ids)
    assert sweep.sums(a, b, torch.tensor(300.0), labels, gradients=False).exact
    for loss in ("infonce", "infonce_in_passes"):
        assert error(loss, a, b, kind, a_ids, b_ids, sweep, scale=300.0) < 2e-4


@pytest.mark.parametrize("choices", [{}, {"columns": 32}], ids=str)
def test_sums_of_one_side_are_taken_again(choices):
    a, b = opposed()
    sweep = fused(**choices)
    assert error("one_sided", a, b, "diagonal", None, None, sweep, scale=300.0) < 2e-4


def test_sums_large_enough_are_not_taken_again():
    a, b = embeddings()
    labels = labels_of(a, b, "diagonal", None, None)
    assert not fused().sums(a, b, torch.tensor(14.0), labels, gradients=False).exact


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_without_positives_do_not_count(loss):
    a, b = embeddings()
    a_ids, b_ids = ids("groups")
    a_ids[:9] = -torch.arange(1, 10)
    b_ids[20:] = 2**40
    assert error(loss, a, b, "groups", a_ids, b_ids, fused(), scale=14.0) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_positives(kind):
    a, b = embeddings(20, 20)
    same = torch.full((20,), 7)
    for loss in LOSSES[::2]:
        values = (
            found(loss, a, b, kind, same, same, scale=14.0, sweep=fused()),
            wanted(loss, a, b, kind, same, same, scale=14.0),
        )
        for x, y in zip(*values, strict=True):
            torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "itself"),
    [
        pytest.param(kind, itself, marks=[] if itself is (kind != "diagonal") else [nightly])
        for kind in KINDS
        for itself in (False, True)
    ],
)
def test_a_block_of_rows_has_its_part_of_sums_and_gradients(kind, itself):
    a, b = embeddings()
    a_ids, b_ids = ids(kind)
    if itself:  # rows of one side among themselves, each without itself
        a, a_ids = b, b_ids
    here, scale = slice(3, 20), torch.tensor(14.0)
    labels = replace(labels_of(a, b, kind, a_ids, b_ids), without_self=itself)
    labels = labels.block(here.start, here.stop)
    sweep, judge = fused(columns=32), ChunkedBackend()
    a64, b64, one = a[here].double(), b.double(), torch.ones((), dtype=torch.float64)
    mine, right = (
        sweeps_.sums(x, y, scale, labels, gradients=True)
        for sweeps_, x, y in ((sweep, a[here], b), (judge, a64, b64))
    )
    names = "row_log_N", "column_log_M", "row_positive_N", "column_positive_M"
    for name in names:
        torch.testing.assert_close(
            getattr(mine, name).double(), getattr(right, name), rtol=1e-5, atol=1e-5
        )

    def grads(sweep, sums, a, b):
        _, rows = row_stats(sums.row_log_N, sums.row_positive_N, labels.row_count_N, one)
        _, columns = row_stats(
            sums.column_log_M, sums.column_positive_M, labels.column_count_M, one
        )
        return sweep.gradients(
            a, b, scale, labels, rows=rows, columns=columns, exact=sums.exact, kept=sums.kept
        )

    theirs = grads(judge, right, a64, b64)
    assert worst(grads(sweep, mine, a[here], b), theirs) < 5e-6


@pytest.mark.parametrize("raw", [True, False])
def test_unit_and_finish_are_those_of_every_execution(raw):
    x, grad = embeddings(N, N, unit=False)
    sweep, judge, factor = fused(), ChunkedBackend(), torch.tensor(0.3)
    unit, length = sweep.normalize_rows(x)
    for mine, right in zip((unit, length), judge.normalize_rows(x), strict=True):
        torch.testing.assert_close(mine, right)
    length = None if raw else length
    of_both = (
        y.finalize_gradient(unit, grad, factor, length, torch.float32) for y in (sweep, judge)
    )
    for mine, right in zip(*of_both, strict=True):
        torch.testing.assert_close(mine, right)


def opposed():
    a, b = embeddings(N, N)
    cone = torch.zeros(a.shape[1])
    cone[0] = 1
    a, b = normalize(0.3 * a + cone, dim=1), normalize(0.3 * b - cone, dim=1)
    b[3] = a[3]
    return a, b
