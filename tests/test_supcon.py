"""SupCon against the loop of the paper, and beside NT-Xent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch.nn.functional import cross_entropy

from contrastive.losses.supcon import supcon
from tests.row_losses import (
    IDS,
    SHAPES,
    assert_same,
    batches,
    ids_for,
    leaves,
    log_scales,
    quick,
    slow_supcon,
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ids", IDS)
def test_supcon_is_that_of_the_loops(ids, shape):
    inputs = leaves(*shape)
    batch = (*inputs[:2], *ids_for(ids, *shape[:2]))
    how = {"log_scale": inputs[2]}
    assert_same(supcon(*batch, **how), slow_supcon(*batch, **how), inputs)


@quick
@given(batches(), log_scales)
def test_supcon_of_distinct_ids_is_nt_xent(batch, log_scale):
    a, b, _ = batch
    n = len(a)
    z = torch.cat([a, b])
    logits = (log_scale.exp() * z @ z.T).fill_diagonal_(-torch.inf)
    labels = torch.arange(2 * n).roll(n)
    nt_xent = cross_entropy(logits, labels)
    for ids in (None, torch.arange(n) + 5):
        loss = supcon(a, b, ids, log_scale=log_scale)
        torch.testing.assert_close(loss, nt_xent, rtol=1e-9, atol=1e-12)
