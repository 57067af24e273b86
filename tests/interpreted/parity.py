"""The suite that every execution passes, for the fused one in Triton's interpreter."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from contrastive.losses import execution
from contrastive.testing import check_loss

# of numbers beyond the last row or column, which are not used
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
SIZES = ((1, 1, 24), (7, 5, 33), (20, 31, 24))
# 1: each setting in some case; 2: any two settings together, which takes ten times as long
by_strength = pytest.mark.parametrize("strength", [1, pytest.param(2, marks=pytest.mark.nightly)])


@by_strength
@pytest.mark.parametrize("kind", ["infonce", pytest.param("sigmoid", marks=pytest.mark.nightly)])
def test_the_fused_execution_passes(kind, strength):
    loss = partial(getattr(execution, kind), execution="fused")
    check_loss(loss, kind, sizes=SIZES, strength=strength)


@pytest.mark.nightly
@by_strength
@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_the_fused_execution_passes_in_half_precision(kind, strength):
    loss = partial(getattr(execution, kind), execution="fused")
    # fp16 has few digits for gradients below 1e-9: where fitted pairs are all there is
    regimes = ("random_s100", "opposed_cones_s100", "lone_pair_s300")
    some = {"sizes": SIZES[1:], "regimes": regimes, "strength": strength}
    check_loss(loss, kind, dtype=torch.float16, **some)
