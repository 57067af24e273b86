"""Training in fp16: gradients are scaled, a step that overflows is left out, all ranks alike."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from contrastive import build_model
from contrastive.distributed.ranks import Ranks
from contrastive.errors import TrainingError
from contrastive.features.cache import FeatureCache
from contrastive.reporting.run_log import Log
from contrastive.spec import TrainingSpec
from contrastive.training import loss_scale, step
from contrastive.training.batches import Batch
from contrastive.training.built import autocast_dtype
from contrastive.training.loss_scale import LossScale
from contrastive.training.optimizer import optimizer_of
from contrastive.training.step_log import StepLog
from contrastive.training.train import train
from tests.toys import tiny_model, toy_dict

pytestmark = pytest.mark.slow


def lines_of(run):
    """Return the steps of a log that is JSON to the letter: without NaN or Infinity."""
    text = (run / "log.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    return [line for line in lines if "loss" in line]


def spec_of(folder, **settings):
    return toy_dict(folder / "data", precision="fp16", **settings)


def weights_of(run):
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("has_bf16", "capability", "chosen"),
    [
        (True, (8, 0), torch.bfloat16),
        (True, (9, 0), torch.bfloat16),
        (False, (7, 0), torch.float16),
        (False, (7, 5), torch.float16),
        (False, (6, 1), None),
    ],
)
def test_auto_is_what_the_hardware_has(monkeypatch, has_bf16, capability, chosen):
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.autograd.set_grad_enabled(True))
    assert autocast_dtype(TrainingSpec(), gpu) is chosen
    assert autocast_dtype(TrainingSpec(precision="fp32"), gpu) is None
    assert autocast_dtype(TrainingSpec(precision="fp16"), gpu) is torch.float16
    assert autocast_dtype(TrainingSpec(), torch.device("cpu")) is None


def test_losses_are_those_of_fp32_within_the_rounding_of_fp16(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**8)  # no step overflows
    cache = FeatureCache(tmp_path / "cache")
    train(spec_of(tmp_path, micro_batch=6), tmp_path / "fp16", cache=cache)
    assert "the towers train in fp16 with loss scaling" in capsys.readouterr().err
    exact = toy_dict(tmp_path / "data", precision="fp32", micro_batch=6)
    train(exact, tmp_path / "fp32", cache=cache)
    found, expected = lines_of(tmp_path / "fp16"), lines_of(tmp_path / "fp32")
    assert found[-1]["skipped_steps"] == 0
    for name in ("loss", "grad_norm"):
        left, right = ([line[name] for line in lines] for lines in (found, expected))
        assert left != right
        torch.testing.assert_close(left, right, rtol=1e-2, atol=0)
    facts = (tmp_path / "fp16" / "log.jsonl").read_text()
    assert '"precision": "fp16"' in facts


def test_small_gradients_need_the_scale():
    """In fp16 a gradient below 6e-8 is 0; scaled, it is what fp32 has."""
    weight = torch.full((4,), 1e-4, requires_grad=True)

    def gradient(scale):
        weight.grad = None
        (weight.half().float().sum() * 1e-8 * scale.scale).backward()
        scale.unscale_([weight.grad])
        return weight.grad.clone()

    cpu = torch.device("cpu")
    assert not gradient(LossScale(cpu, {"scale": 1.0})).any()
    torch.testing.assert_close(gradient(LossScale(cpu)), torch.full((4,), 1e-8), rtol=1e-3, atol=0)


def test_steps_that_overflow_are_left_out_and_halve_the_scale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**23)
    spec = spec_of(tmp_path)
    trained = train(spec, tmp_path / "run")  # eight steps, all of which overflow
    lines = lines_of(tmp_path / "run")
    assert [line["loss_scale"] for line in lines] == [2.0**n for n in range(22, 14, -1)]
    assert [line["skipped_steps"] for line in lines] == list(range(1, 9))
    assert not any("grad_norm" in line for line in lines)
    told = capsys.readouterr().err
    assert told.count("is left out: gradients overflow fp16; the loss scale is now 4,194,304") == 1
    torch.manual_seed(spec["training"].get("seed", 0))
    untouched = build_model(spec["model"]).state_dict()
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, untouched[name]), name
    state = json.loads((tmp_path / "run/checkpoints/step-00000008/state.json").read_text())
    assert state["loss_scale"] == {"scale": 2.0**15, "since": 0, "skipped": 8}
    assert state["gradients"] == {}


def test_a_run_in_fp16_is_resumed_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "PATIENCE", 3)  # the scale falls and rises
    spec, cache = spec_of(tmp_path), FeatureCache(tmp_path / "cache")
    train(spec, tmp_path / "whole", cache=cache)
    whole = lines_of(tmp_path / "whole")
    scales = [line["loss_scale"] for line in whole]
    assert whole[-1]["skipped_steps"] > 1
    assert any(before < after for before, after in pairwise(scales))
    real, calls = step.step_loss, []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("a bug")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(step, "step_loss", fails)
        with pytest.raises(RuntimeError, match="a bug"):
            train(spec, tmp_path / "run", cache=cache)
    assert len(lines_of(tmp_path / "run")) == 5
    train(spec, tmp_path / "run", resume=True, cache=cache)
    assert lines_of(tmp_path / "run") == whole
    left, right = weights_of(tmp_path / "run"), weights_of(tmp_path / "whole")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("scale", "loss", "norm", "left_out", "ends"),
    [
        (4.0, 1.0, 1.0, False, False),
        (4.0, 1.0, math.inf, True, False),
        (4.0, 1.0, math.nan, True, False),
        (1.0, 1.0, math.inf, True, True),  # no smaller scale helps
        (4.0, math.nan, math.nan, True, True),  # the forward pass overflows
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_what_a_smaller_scale_does_not_help_ends_the_run(scale, loss, norm, left_out, ends, fused):
    model = build_model(tiny_model("infonce"))
    optimizer = optimizer_of(model, settings := TrainingSpec(precision="fp16"))
    for group in optimizer.param_groups:
        group["fused"] = fused or None
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = model.loss.log_scale.item()
    scaling = LossScale(model.device, {"scale": scale})
    parts = Log(None), model, optimizer, settings, Ranks(), scaling
    log = StepLog(*parts, steps_per_epoch=1, advance=lambda *_: None)
    numbers = torch.tensor(loss), torch.tensor(norm)
    if log.is_applied(*numbers):
        optimizer.step()
    assert (model.loss.log_scale.item() == before) == left_out
    features = {m: torch.randn(2, model.tower(m).encoder.out_dim) for m in model.towers}
    batch = Batch(torch.arange(2), ["a", "b"], features)
    log.add(1, batch, loss=numbers[0], lr=0.1, gradient_norm=numbers[1], metrics={})
    assert scaling.scale.item() == (scale / 2 if left_out and not ends else scale)
    if not ends:
        return log.settle()
    with pytest.raises(TrainingError, match=r"is not applied: .*training.precision: fp32$"):
        log.settle()
    return None


def rank(number, size, spec, folder):
    """Be one of the ranks, of which the last has gradients that overflow in two steps."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=size
    )
    loss_scale.FIRST, real, calls = 2.0**8, step.step_loss, []

    def overflows(*args, **kwargs):
        calls.append(1)
        loss, metrics = real(*args, **kwargs)
        factor = 1e37 if number == size - 1 and len(calls) in (2, 5) else 1
        return loss * factor, metrics

    step.step_loss = overflows
    model = train(spec, folder / "run", cache=FeatureCache(folder / "cache"))
    save_file(model.state_dict(), folder / f"{number}.safetensors")


def test_ranks_agree_on_what_is_left_out(tmp_path, in_ranks):
    in_ranks(rank, 2, spec_of(tmp_path), tmp_path)
    lines = lines_of(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [0, 1, 1, 1, 2, 2, 2, 2]
    left, right = (load_file(tmp_path / f"{i}.safetensors") for i in range(2))
    assert all(torch.equal(left[name], right[name]) for name in left)
