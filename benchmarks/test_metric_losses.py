"""Losses of contrastive-metric-learning against the classes of the library that they are made of.

Forward and backward of 256 rows on each side: the library's NT-Xent pairs each positive with all
negatives. It is given what the plugin gives it: the rows of one side against those of the other, in
both directions.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.losses import losses

ROWS, WIDTH = 256, 256
LIBRARY = {
    "pml-nt-xent": ("NTXentLoss", {"temperature": 0.07}),
    "pml-supcon": ("SupConLoss", {"temperature": 0.1}),
    "pml-multi-similarity": ("MultiSimilarityLoss", {}),
    "pml-circle": ("CircleLoss", {}),
}


def ours(name):
    pytest.importorskip("contrastive_metric_learning", reason="the plugin is not installed")
    loss = losses[name]().build()
    return lambda a, b: loss(a, b)[0]


def library(name):
    module = pytest.importorskip(
        "pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed"
    )
    of, options = LIBRARY[name]
    loss = getattr(module, of)(**options)
    # the same object twice would be one set, in which row i is no positive of itself
    ids, others = torch.arange(ROWS), torch.arange(ROWS)
    return lambda a, b: (
        (loss(a, ids, ref_emb=b, ref_labels=others) + loss(b, ids, ref_emb=a, ref_labels=others))
        / 2
    )


ARMS = {"ours": ours, "pytorch-metric-learning": library}


_values = {}


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("arm", ARMS)
def test_loss_and_gradients(benchmark, name, arm):
    benchmark.group = name
    generator = torch.Generator().manual_seed(0)
    sides = [
        normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=1).requires_grad_()
        for _ in range(2)
    ]
    loss = ARMS[arm](name)
    value = loss(*sides).item()
    assert value == pytest.approx(_values.setdefault(name, value), rel=1e-5)
    benchmark(lambda: torch.autograd.grad(loss(*sides), sides))
