"""Exact search for the ten nearest: ours, faiss and a product with ``topk``.

``make bench`` skips what is not installed; ``make bench-peers`` installs it.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.inference.nearest import top_k

WIDTH, K = 512, 10
ITEMS = [int(n) for n in os.environ.get("BENCHMARK_ITEMS", "31000").split(",")]


@pytest.fixture(scope="module", params=ITEMS)
def items(request):
    generator = torch.Generator().manual_seed(0)
    made = torch.empty(request.param, WIDTH)
    return normalize(made.normal_(generator=generator), dim=1, out=made)


def ours(items):
    return lambda queries: top_k(queries, items, K)


def product_and_topk(items):
    return lambda queries: (queries @ items.T).topk(K)


def faiss(items):
    library = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    library.omp_set_num_threads(torch.get_num_threads())
    index = library.IndexFlatIP(WIDTH)
    index.add(items.numpy())
    return lambda queries: index.search(queries.numpy(), K)


ARMS = {"ours": ours, "product + topk": product_and_topk, "faiss": faiss}


@pytest.mark.parametrize("queries", [1, 64])
@pytest.mark.parametrize("arm", ARMS)
def test_search(benchmark, items, queries, arm):
    benchmark.group = f"search, {queries} of {len(items):,} x {WIDTH}"
    asked = normalize(torch.randn(queries, WIDTH), dim=1)
    search = ARMS[arm](items)
    indices = search(asked)[1]
    expected = (asked.double() @ items.double().T).topk(K).indices if len(items) < 1e5 else None
    assert expected is None or (torch.as_tensor(indices) == expected).all()
    benchmark(search, asked)
