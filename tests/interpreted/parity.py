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


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_the_fused_execution_passes(kind):
    loss = partial(getattr(execution, kind), execution="fused")
    check_loss(loss, kind, sizes=SIZES)


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_the_fused_execution_passes_in_half_precision(kind):
    loss = partial(getattr(execution, kind), execution="fused")
    # fp16 has few digits for gradients below 1e-9: where fitted pairs are all there is
    regimes = ("random_s100", "opposed_cones_s100", "lone_pair_s300")
    check_loss(loss, kind, dtype=torch.float16, sizes=SIZES[1:], regimes=regimes)
