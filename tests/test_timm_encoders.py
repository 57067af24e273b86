"""Encoders of timm: its transforms, its widths, its weights."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file, save_model

from contrastive.encoders import Timm
from contrastive.errors import WeightsError
from tests.tiny_encoders import TIMM, features, samples_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]


def test_timm_uses_the_transform_of_the_model(models):
    module = Timm(name=f"local-dir:{models}/timm").build()
    config = timm.data.resolve_model_data_config(module.net)
    transform = timm.data.create_transform(**config, is_training=False)
    samples = samples_of(module)
    expected = torch.stack([transform(sample) for sample in samples])
    assert torch.equal(module.preprocess(samples)["image"], expected)


def test_a_transform_that_timm_does_not_have_is_one_line(models, tmp_path):
    folder = Path(shutil.copytree(models / "timm", tmp_path / "timm"))
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["interpolation"] = "cubical"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"cannot load the transform .*cubical"):
        Timm(name=f"local-dir:{folder}").build()


def test_timm_takes_the_safetensors_of_a_folder_whatever_lies_beside_them(models, tmp_path):
    folder = Path(shutil.copytree(models / "timm", tmp_path / "timm"))
    (folder / "pytorch_model.bin").write_bytes(b"not to be unpickled")
    found = Timm(name=f"local-dir:{folder}").build().state_dict()
    expected = load_file(folder / "model.safetensors")
    for name in ("net.cls_token", "net.norm.weight"):
        assert torch.equal(found[name], expected[name.removeprefix("net.")])


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout", "mobilenetv3_small_050"])
def test_the_width_that_timm_says_is_the_width_that_comes_out(name):
    module = Timm(name=name, pretrained=False).build()
    assert features(module, samples_of(module)[:1]).shape == (1, module.out_dim)


def cached_on_hub(cache, repository, file):
    """Lay out a file as the Hugging Face cache does."""
    folder = Path(cache) / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    return snapshot / file


def test_timm_takes_published_weights_from_the_cache(tmp_path):
    net = timm.create_model(TIMM, num_classes=1000)
    state = net.state_dict()
    save_file(state, cached_on_hub(tmp_path / "hub", f"timm/{TIMM}", "model.safetensors"))
    module = Timm(name=TIMM).build()
    assert module.reproducible
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_timm_takes_weights_from_a_file_without_the_classifier(tmp_path):
    state = timm.create_model(TIMM, num_classes=7).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    module = Timm(name=TIMM, weights=tmp_path / "mine.safetensors").build()
    assert module.reproducible
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_a_name_of_a_former_release_of_timm_stands_for_its_tag(tmp_path):
    old, new = "tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"
    state = timm.create_model("tf_efficientnet_b0").state_dict()
    save_file(state, cached_on_hub(tmp_path / "hub", f"timm/{new}", "model.safetensors"))
    module = Timm(name=old).build()
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_features_of_places_are_averaged(monkeypatch):
    monkeypatch.setattr(timm.models.VisionTransformer, "forward_head", lambda self, x: self.norm(x))
    module = Timm(name="test_vit", pretrained=False).build()
    (image,) = samples_of(module)[:1]
    tokens_BLF = module.net(module.preprocess([image])["image"])
    assert tokens_BLF.ndim == 3
    torch.testing.assert_close(features(module, [image]), tokens_BLF.mean(1))


@pytest.mark.parametrize("name", ["levit_128s", "repvit_m0_9", "efficientvit_m0"])
def test_of_a_whole_model_the_whole_head_is_left_out(name, tmp_path):
    state = timm.create_model(name).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    module = Timm(name=name, weights=tmp_path / "mine.safetensors").build()
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_of_tied_weights_one_name_is_enough(tmp_path):
    net = timm.create_model("coat_lite_tiny")
    save_model(net, str(tmp_path / "mine.safetensors"))
    assert len(load_file(tmp_path / "mine.safetensors")) < len(net.state_dict())
    module = Timm(name="coat_lite_tiny", weights=tmp_path / "mine.safetensors").build()
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_weights_from_before_batches_were_counted_are_whole(tmp_path):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    counted = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    assert len(counted) < len(state)
    save_file(counted, tmp_path / "mine.safetensors")
    module = Timm(name="test_resnet", weights=tmp_path / "mine.safetensors").build()
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def damaged(state, how):
    first = next(iter(state))
    if how == "lacks":
        return {name: value for name, value in state.items() if name != first}
    if how == "has unknown":
        return state | {"nonesuch.weight": torch.zeros(1)}
    return state | {first: torch.zeros(3)}


@pytest.mark.parametrize("how", ["lacks", "has unknown", "has other shapes of"])
def test_a_weights_file_has_to_fit_exactly(how, tmp_path):
    state = timm.create_model(TIMM, num_classes=0).state_dict()
    path = tmp_path / "mine.safetensors"
    save_file(damaged(state, how), path)
    offender = "nonesuch.weight" if how == "has unknown" else next(iter(state))
    with pytest.raises(WeightsError, match=f"mine.safetensors .*it {how} {offender}") as error:
        Timm(name=TIMM, weights=path).build()
    assert "\n" not in str(error.value)
