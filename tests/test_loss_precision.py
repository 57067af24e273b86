"""InfoNCE and the sigmoid loss in fp32, bf16 and fp16: as exact as the type allows, never NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.losses import execution
from contrastive.losses.functional import infonce, sigmoid
from tests.pair_losses import (
    IDS,
    POSITIVES,
    call,
    ids_for,
    leaves,
    relative,
    scalar,
    unit,
    value_and_gradients,
)


def test_perfect_alignment_costs_nothing_and_chance_costs_ln_n():
    a, s = torch.eye(64), scalar(math.log(100), torch.float32)
    assert infonce(a, a, log_scale=s) < 1e-40
    a, b = unit(512, 256, dtype=torch.float32), unit(512, 256, seed=1, dtype=torch.float32)
    assert infonce(a, b, log_scale=scalar(0.0, torch.float32)).item() == pytest.approx(
        math.log(512), abs=0.01
    )


def regimes():
    noise, other = unit(256, 64), unit(256, 64, seed=1)
    cone = torch.zeros(64, dtype=torch.float64)
    cone[0] = 0.6
    return {
        "random": (noise, other),
        "fitted": (noise, normalize(0.8 * noise + 0.6 * other, dim=1)),
        "aligned": (noise, noise.clone()),
        "opposed cones": (normalize(noise + cone, dim=1), normalize(other - cone, dim=1)),
    }


@pytest.mark.parametrize("regime", regimes())
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 30.0, 100.0])
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("groups", [256, 32])
def test_fp32_keeps_its_relative_precision(loss, regime, scale, positives, groups):
    a, b = (x.float() for x in regimes()[regime])
    ids = torch.arange(256) % groups
    arguments = {"log_scale": math.log(scale), "bias": -10.0}
    rough = value_and_gradients(
        loss, leaves(a, b, **arguments, dtype=torch.float32), ids, ids, positives
    )
    exact = value_and_gradients(loss, leaves(a, b, **arguments), ids, ids, positives)
    assert rough[0].dtype == torch.float32
    assert relative(rough[0], exact[0]) < 5e-5  # exp makes this of an error of s * 6e-8 in a logit
    for gradient, true in zip(rough[1], exact[1], strict=True):
        assert gradient.isfinite().all()
        if true.norm() > 1e-30:
            assert relative(gradient, true) < 1e-4


@pytest.mark.parametrize("positives", POSITIVES)
def test_tiny_losses_are_exact(positives):
    a, b = (x.float() for x in regimes()["fitted"])
    loss = infonce(a, b, torch.arange(256), log_scale=scalar(math.log(100.0)), positives=positives)
    logits = (
        torch.tensor(math.log(100.0), dtype=torch.float32).exp() * a.double() @ b.double().T
    ).tolist()
    terms = []
    for i in range(256):
        row = math.fsum(math.exp(logits[i][j] - logits[i][i]) for j in range(256) if j != i)
        column = math.fsum(math.exp(logits[j][i] - logits[i][i]) for j in range(256) if j != i)
        terms.append((math.log1p(row) + math.log1p(column)) / 2)
    true = math.fsum(terms) / 256
    assert true < 1e-7  # log_softmax in fp32 returns a multiple of 6e-8 for a row
    assert loss.item() == pytest.approx(true, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_no_step_of_the_backward_pass_is_nan(loss, positives, ids):
    with torch.autograd.detect_anomaly():
        value_and_gradients(loss, leaves(unit(5, 3), unit(7, 3)), *ids_for(ids, 5, 7), positives)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss, positives, dtype):
    rounded = [unit(32, 16, seed=seed).to(dtype) for seed in (0, 1)]
    ids = torch.arange(32) // 2
    half = [x.requires_grad_() for x in rounded]
    full = [x.detach().float() for x in rounded]
    rest = (scalar(2.0, torch.float32), scalar(-3.0, torch.float32), positives)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(loss, *half, ids, ids, *rest)
        cast_full = call(loss, *full, ids, ids, *rest)
    plain = call(loss, *full, ids, ids, *rest)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(cast_full, plain, rtol=1e-6, atol=0)
    cast.backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for x in half)


@pytest.mark.parametrize("name", ["b", "a_ids", "log_scale", "bias"])
def test_what_is_on_another_device_is_told_with_both(name):
    given = {
        "a": unit(4, 3),
        "b": unit(4, 3),
        "a_ids": torch.arange(4),
        "log_scale": scalar(1.0),
        "bias": scalar(-3.0),
    }
    given[name] = given[name].to("meta")
    with pytest.raises(ValueError, match=rf"^{name} is on meta, a on cpu; give {name}.to\('cpu'\)"):
        execution.sigmoid(**given, execution="chunked")
