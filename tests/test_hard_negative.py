"""The loss of hard negatives beside InfoNCE and the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.errors import SpecError
from contrastive.losses import HardNegative
from contrastive.losses.functional import infonce
from contrastive.losses.hard_negative import hard_negative
from tests.pair_losses import POSITIVES, scalar, unit
from tests.row_losses import DIRECTIONS, batches, log_scales, quick


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES), st.sampled_from(DIRECTIONS))
def test_without_hardness_and_debiasing_it_is_infonce(batch, log_scale, positives, direction):
    a, b, ids = batch
    how = {"log_scale": log_scale, "positives": positives, "direction": direction}
    plain = hard_negative(a, b, ids, beta=0.0, tau_plus=0.0, **how)
    torch.testing.assert_close(plain, infonce(a, b, ids, **how), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau_plus", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_views_of_one_modality_give_the_loss_of_the_paper_on_hard_negatives(beta, tau_plus):
    a, b, t = unit(8, 4), unit(8, 4, seed=1), 0.5
    z, n = torch.cat([a, b]), 8
    pos = torch.exp((a * b).sum(1) / t).repeat(2)
    neg = torch.exp(z @ z.T / t)[~torch.eye(n, dtype=torch.bool).repeat(2, 2)].view(2 * n, -1)
    weights = neg**beta
    reweighted = (weights * neg).sum(1) / weights.mean(1)
    count = 2 * n - 2
    total = ((reweighted - tau_plus * count * pos) / (1 - tau_plus)).clamp(count * math.exp(-1 / t))
    expected = -torch.log(pos / (pos + total)).mean()
    how = {"beta": beta, "tau_plus": tau_plus, "candidates": "both"}
    torch.testing.assert_close(hard_negative(a, b, log_scale=-scalar(t).log(), **how), expected)


def test_hard_negatives_get_more_of_the_gradient():
    logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.4], [0.6, -0.8], [-1.0, 0.0]])
    shares = []
    for beta in (0.0, 2.0):
        b = logits[1].clone().requires_grad_()
        loss = hard_negative(logits[0], b, log_scale=scalar(1.0), beta=beta, direction="a_to_b")
        (grad,) = torch.autograd.grad(loss, b)
        shares.append(grad[1, 0] / grad[1:, 0].sum())
    assert shares[1] > shares[0]


def test_values_without_meaning_are_refused():
    with pytest.raises(SpecError, match=r"^.*$"):
        HardNegative(beta=math.nan)
