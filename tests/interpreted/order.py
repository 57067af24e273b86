"""Ids of the fused losses, in Triton's interpreter: exact, and compared in few tiles."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from contrastive.losses import execution
from contrastive.losses.backends.triton import order
from contrastive.losses.backends.triton.device_functions import meets
from tests.interpreted.judge import KINDS, embeddings

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
nightly = pytest.mark.nightly  # by day, each setting in some case


def some_ids(n, m, how, seed):
    """Return ids of both sides."""
    generator = torch.Generator().manual_seed(seed)
    a_ids, b_ids = (torch.randint(0, 60, (x,), generator=generator) for x in (n, m))
    k = min(n, m)
    if how == "of pairs":  # matched pairs have one id, as a dataset's have; the rest has its own
        b_ids[:k] = a_ids[:k]
        a_ids[k:], b_ids[k:] = -1 - torch.arange(n - k), -1 - torch.arange(m - k)
    if how == "unlabelled":  # a number of its own for each row without a label
        unknown = torch.rand(n, generator=generator) < 0.5
        a_ids[unknown] = -(2**40) - torch.arange(int(unknown.sum()))
    if how == "one":
        a_ids[:], b_ids[:] = 7, 7
    return a_ids, b_ids


@pytest.mark.parametrize(
    ("how", "n", "m"),
    [("any", 140, 100), ("of pairs", 100, 140), ("unlabelled", 140, 100), ("one", 100, 140)],
)
@pytest.mark.parametrize("kind", [pytest.param("masked", marks=nightly), "groups"])
@pytest.mark.parametrize("loss", ["infonce", pytest.param("sigmoid", marks=nightly)])
def test_a_loss_with_ids_is_that_of_all_logits_in_float64(loss, kind, how, n, m):
    a_ids, b_ids = some_ids(n, m, how, seed=n)
    found = []
    for execute, dtype in (("fused", torch.float32), ("eager", torch.float64)):
        a, b = (x.to(dtype).requires_grad_() for x in embeddings(n, m, fit=0.3))
        log_scale, bias = (
            torch.tensor(x, dtype=dtype, requires_grad=True) for x in (math.log(14), -3.0)
        )
        given, leaves = {}, [a, b, log_scale]
        if loss == "sigmoid":
            given, leaves = {"bias": bias}, [*leaves, bias]
        value = getattr(execution, loss)(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=log_scale,
            positives=KINDS[kind],
            execution=execute,
            **given,
        )
        found.append([value.detach(), *torch.autograd.grad(value, leaves)])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-6)


def test_rows_and_columns_of_one_tensor_of_ids_are_those_of_two():
    ids, _ = some_ids(60, 60, "any", seed=0)
    a, b = (x.requires_grad_() for x in embeddings(60, 60))
    found = []
    for b_ids in (None, ids, ids.clone()):
        loss = execution.infonce(a, b, ids, b_ids, temperature=0.07, execution="fused")
        found.append([loss.detach(), *torch.autograd.grad(loss, [a, b])])
    for mine in found[1:]:
        for x, y in zip(mine, found[0], strict=True):
            assert torch.equal(x, y)


@triton.jit
def compared(first, last, out, n, m, R: tl.constexpr, C: tl.constexpr):
    """Write whether the kernels compare the ids of a tile."""
    tile_row, tile_column = tl.program_id(0), tl.program_id(1)
    rows_R = tile_row * R + tl.arange(0, R)
    columns_C = tile_column * C + tl.arange(0, C)
    found = meets(first, last, rows_R, columns_C, tile_column * C, n, 0)
    tl.store(out + tile_row * tl.num_programs(1) + tile_column, found.to(tl.int32))


def compared_share(a_ids, b_ids, tile=64):
    """Return in which share of the tiles ids are compared."""
    bands = order.sort(a_ids, b_ids, "groups", count=False)
    n, m = len(a_ids), len(b_ids)
    grid = -(-n // tile), -(-m // tile)
    out = torch.zeros(grid, dtype=torch.int32)
    compared[grid](bands.first, bands.last, out, n, m, R=tile, C=tile)
    return float(out.double().mean())


def test_ids_are_compared_in_few_tiles():
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(600, generator=generator)
    assert compared_share(shuffled, shuffled) == 1 / 10
    # five captions an image, in any order: 2 tiles in a row of tiles, or 3
    assert compared_share(shuffled // 5, shuffled.flip(0) // 5) < 3 / 10
    assert compared_share(shuffled, shuffled + 600) == 0
