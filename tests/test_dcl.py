"""DCL beside InfoNCE."""

from __future__ import annotations

import torch
from hypothesis import given

from contrastive.losses.dcl import dcl
from contrastive.losses.functional import infonce, similarity
from tests.row_losses import batches, log_scales, quick


@quick
@given(batches(), log_scales)
def test_dcl_is_infonce_without_the_positive_in_the_denominator(batch, log_scale):
    a, b, _ = batch
    if len(a) > 1:
        x = similarity(a, b, log_scale=log_scale)
        total = sum(
            y.logsumexp(1) - y.fill_diagonal_(-torch.inf).logsumexp(1)
            for y in (x.detach().clone(), x.detach().T.clone())
        )
        expected = infonce(a, b, log_scale=log_scale) - total.mean() / 2
        torch.testing.assert_close(dcl(a, b, log_scale=log_scale), expected, rtol=1e-9, atol=1e-9)
