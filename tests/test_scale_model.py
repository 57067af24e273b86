"""The model of docs/scale.md says what the collectives of a step really carry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

from benchmarks.scale_model import (
    Work,
    differences,
    sharded_step,
    sharded_table,
    step,
    step_collectives,
    table,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def equal_ranks(monkeypatch):
    """Let this process be rank 0 of some that have the same rows, without any other process."""

    def use(size):
        def gather(out, x, group=None):
            out.copy_(x.repeat(size, *[1] * (x.dim() - 1)))

        def scatter(out, x, group=None):
            out.copy_(size * x[: len(out)])

        def reduce(x, op, group=None):
            if op == dist.ReduceOp.SUM:
                x *= size

        for either, call in (
            (("all_gather_single", "all_gather_into_tensor"), gather),
            (("reduce_scatter_single", "reduce_scatter_tensor"), scatter),
            (("all_reduce",), reduce),
        ):
            for name in either:
                if hasattr(dist, name):
                    monkeypatch.setattr(dist, name, call)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda *_: 0)
        monkeypatch.setattr(dist, "get_world_size", lambda *_: size)
        monkeypatch.setattr(dist, "get_backend_config", lambda *_: "cpu:gloo,cuda:nccl")

    return use


@pytest.mark.parametrize("execution", ["eager", "chunked"])
@pytest.mark.parametrize("size", [4, 64])
def test_a_loss_sends_what_the_model_says(equal_ranks, size, execution):
    equal_ranks(size)
    said, found = differences(6, 8, execution, rank=0, size=size, loss_only=True)
    assert found == said
    assert len(said) == {"eager": 5, "chunked": 7}[execution]


@pytest.mark.parametrize("execution", ["eager", "chunked"])
def test_one_process_sends_nothing(execution):
    assert differences(6, 8, execution, rank=0, size=1) == ([], [])


def counting(rank, size, folder):
    """Be a rank over gloo."""
    sys.path.insert(0, str(ROOT))
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    pairs = [differences(6, 8, how, rank=rank, size=size) for how in ("eager", "chunked")]
    sharded = sharded_step(rank, size)
    (folder / f"{rank}.json").write_text(json.dumps([pairs, sharded]))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("size", [2, 4])
def test_so_do_the_processes_of_this_machine(tmp_path, in_ranks, size):
    in_ranks(counting, size, tmp_path)
    for rank in range(size):
        pairs, sharded = json.loads((tmp_path / f"{rank}.json").read_text())
        for said, found in pairs:
            assert found == said != []
        for (kind, said), (same, found) in zip(*sharded, strict=True):
            assert kind == same
            assert said <= found < 1.02 * said, "but for rows that fill up the shards"


def test_a_ring_sends_what_the_textbook_says():
    by_what = {call.what: call for call in step_collectives(8, 256, 512, 10**6)}
    assert by_what["embeddings b"].sent(8) == 7 * 256 * 512 * 4
    assert by_what["gradients, in buckets"].sent(8) == 2 * 4 * 10**6 * 7 / 8


def test_what_scales_does_and_what_does_not_is_told():
    one, many = step(1), step(1024)
    assert many.towers == one.towers
    assert (one.sent, one.embeddings, one.gradients) == (0, 0, 0)
    assert step(1024, Work(overlap=0)).seconds > many.seconds
    assert many.loss_bytes < 2e9 < many.eager_bytes


def test_the_page_has_the_table_of_the_model():
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert table() in page, "run: python -m benchmarks.scale_model"
    assert sharded_table() in page
