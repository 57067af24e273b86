"""Convolutions with channels last compute the same, and leave no trace in what is saved."""

from __future__ import annotations

import pytest
import torch

from contrastive import build_model, load_model
from contrastive.features.cache import FeatureCache
from contrastive.model.saved_folder import open_folder
from contrastive.reporting.run_log import read_log
from contrastive.training import built, parallel
from contrastive.training.built import lay_out_convolutions_, takes_channels_last
from contrastive.training.train import train
from tests.toys import tiny_model, toy_dict

RESNET = {"type": "resnet", "width": 8, "layers": [1, 1, 1, 1], "image_size": 32}
TIMM = {"type": "timm", "name": "test_efficientnet", "pretrained": False}
VIT = {"type": "timm", "name": "test_vit", "pretrained": False}


def model_of(encoder, frozen="none"):
    torch.manual_seed(0)
    spec = tiny_model("infonce")
    spec["towers"]["image"] |= {"encoder": encoder, "frozen": frozen}
    return build_model(spec)


def formats(model):
    """Return the memory formats of the weights that have channels and both kinds of them."""
    weights = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    return {p.is_contiguous(memory_format=torch.channels_last) for p in weights}


def test_a_gpu_has_them_where_its_tensor_cores_are_used():
    cuda, cpu, mps = map(torch.device, ("cuda", "cpu", "mps"))
    assert takes_channels_last(torch.bfloat16, cuda)
    assert takes_channels_last(torch.float16, cuda)
    assert not takes_channels_last(None, cuda)
    assert not takes_channels_last(torch.bfloat16, cpu)
    assert not takes_channels_last(torch.float16, mps)


@pytest.mark.parametrize("encoder", [RESNET, TIMM], ids=["resnet", "timm"])
def test_outputs_and_gradients_are_the_same_within_rounding(encoder):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = model_of(encoder).eval()
        lay_out_convolutions_(model, memory_format)
        assert formats(model) == {memory_format is torch.channels_last}
        torch.manual_seed(1)
        tower = model.tower("image")
        rows = tower(image=torch.randn(4, 3, 32, 32))
        (rows[0] @ rows[1]).backward()
        results.append([rows, *(p.grad for p in tower.parameters())])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "frozen"), [(RESNET, "encoder"), (VIT, "none")], ids=["frozen", "one convolution"]
)
def test_what_is_frozen_or_no_convolutional_network_stays(encoder, frozen):
    model = model_of(encoder, frozen)
    before = [p.stride() for p in model.parameters()]
    lay_out_convolutions_(model, torch.channels_last)
    assert [p.stride() for p in model.parameters()] == before


@pytest.mark.slow
def test_a_run_saves_and_resumes_as_ever(tmp_path, monkeypatch):
    spec = toy_dict(tmp_path / "data", batch_norm="eval")
    spec["model"]["towers"]["image"] |= {"encoder": RESNET, "frozen": "none"}
    cache, real, calls = FeatureCache(tmp_path / "cache"), parallel.step_loss, []
    plain = train(spec, tmp_path / "plain", cache=cache)
    monkeypatch.setattr(built, "takes_channels_last", lambda *_: True)
    seen = []

    def noted(model, *args, **kwargs):
        seen.append(formats(model))
        calls.append(1)
        if len(calls) == 14:  # in the second run
            raise RuntimeError("a bug")
        return real(model, *args, **kwargs)

    monkeypatch.setattr(parallel, "step_loss", noted)
    whole = train(spec, tmp_path / "whole", cache=cache)
    with pytest.raises(RuntimeError, match="a bug"):
        train(spec, tmp_path / "run", cache=cache)
    resumed = train(spec, tmp_path / "run", resume=True, cache=cache)
    assert all(each == {True} for each in seen)
    assert formats(whole) == {False}, "the model that is returned is a plain one"
    left, right = (
        [line["loss"] for line in read_log(tmp_path / run / "log.jsonl") if "loss" in line]
        for run in ("plain", "whole")
    )
    torch.testing.assert_close(left, right, rtol=1e-3, atol=0)
    loaded = load_model(tmp_path / "run").state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
        assert torch.equal(weight, loaded[name]), name
        assert loaded[name].is_contiguous()
    assert plain.state_dict().keys() == loaded.keys()
    [folder] = (tmp_path / "run" / "checkpoints").glob("*8")
    assert open_folder(folder).tensors("optimizer.safetensors")
