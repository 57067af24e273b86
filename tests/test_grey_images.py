"""Networks of grey images see grey ones."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers
from PIL import Image

from contrastive.encoders import HFDualImage, HFImage, Timm
from contrastive.encoders.device_normalisation import odd_pixels
from contrastive.errors import SpecError
from tests import duals

pytestmark = pytest.mark.usefixtures("one_seed", "offline")
RED, GREY = (Image.new("RGB", (20, 20), colour) for colour in ("red", (76, 76, 76)))


def save_timm(folder, channels):
    net = timm.create_model("test_vit", in_chans=channels, num_classes=2)
    changes = {"model_args": {"in_chans": channels}, "safe_serialization": True}
    timm.models.save_for_hf(net, folder, **changes)
    return Timm(name=f"local-dir:{folder}", augment="simclr")


def save_vit(folder, channels, means=1):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "image_size": 16}
    config = transformers.ViTConfig(**sizes, num_attention_heads=1, num_channels=channels)
    transformers.ViTModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    mean = [0.5] * means
    processor = transformers.ViTImageProcessor(size=size, image_mean=mean, image_std=mean)
    processor.save_pretrained(folder)
    return HFImage(name=str(folder))


@pytest.mark.parametrize("save", [save_timm, save_vit])
def test_a_network_of_one_channel_sees_what_is_grey(save, tmp_path):
    module = save(tmp_path, 1).build().eval()
    red, grey = (module.preprocess([image])["image"] for image in (RED, GREY))
    assert red.shape[:2] == (1, 1)
    torch.testing.assert_close(red, grey)
    assert module(image=red).shape == (1, module.out_dim)
    if module.augment:
        assert module.augment([RED])["image"].shape == red.shape


@pytest.mark.parametrize("save", [save_timm, save_vit])
def test_another_number_of_channels_is_refused(save, tmp_path):
    with pytest.raises(SpecError, match="takes images of 5 channels, not of 3 or 1; choose"):
        save(tmp_path, 5).build()


def test_a_processor_of_three_channels_is_refused_with_what_to_write(tmp_path):
    with pytest.raises(SpecError, match="give image_mean and image_std one number each in prep"):
        save_vit(tmp_path, 1, means=3).build()
    path = tmp_path / "preprocessor_config.json"
    fields = json.loads(path.read_text()) | {"image_mean": [0.5], "image_std": [0.5]}
    path.write_text(json.dumps(fields))
    HFImage(name=str(tmp_path)).build()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}, ""),
        ({"do_rescale": False}, "image_mean of 0.5 from pixels of 0 to 255; set do_rescale: true"),
        (
            {"image_mean": [123.0] * 3},
            "image_mean of 123 from pixels of 0 to 1; set do_rescale: fal",
        ),
        ({"rescale_factor": 1.0}, "0.5 from pixels of 0 to 255; set rescale_factor to that of its"),
        ({"do_rescale": False, "image_mean": [123.0] * 3, "image_std": [1.0] * 3}, ""),
        ({"do_rescale": False, "do_normalize": False}, ""),
        ({"image_mean": [0.0] * 3, "image_std": [1.0] * 3}, ""),
    ],
)
def test_a_processor_whose_mean_is_not_that_of_its_pixels_is_told(fields, said):
    processor = transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    for name, value in fields.items():
        setattr(processor, name, value)
    told = odd_pixels(processor)
    assert said in told
    assert bool(told) == bool(said)


def test_what_a_processor_does_oddly_is_told_as_it_is_built(tmp_path, capsys):
    encoder = save_vit(tmp_path, 3, means=3)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_rescale": False}))
    encoder.build()
    assert "its image processor subtracts an image_mean of 0.5 from" in capsys.readouterr().err


def save_clip(folder, channels, means=1):
    duals.clip_like("CLIP", duals.bert_tokenizer, vision={"num_channels": channels})(folder)
    path = folder / "preprocessor_config.json"
    if not path.exists():
        path = folder / "processor_config.json"
    fields = json.loads(path.read_text())
    mean = {"image_mean": [0.5] * means, "image_std": [0.5] * means}
    fields.get("image_processor", fields).update(mean)
    path.write_text(json.dumps(fields))
    return HFDualImage(name=str(folder))


def test_a_dual_model_of_one_channel_sees_what_is_grey(tmp_path):
    module = save_clip(tmp_path, 1).build().eval()
    red, grey = (module.preprocess([image])["pixel_values"] for image in (RED, GREY))
    assert red.shape[:2] == (1, 1)
    torch.testing.assert_close(red, grey)
    assert module(pixel_values=red).shape == (1, module.out_dim)


def test_a_dual_model_whose_processor_has_other_channels_is_refused(tmp_path):
    with pytest.raises(SpecError, match="give image_mean and image_std one"):
        save_clip(tmp_path / "3", 1, means=3).build()
    with pytest.raises(SpecError, match="takes images of 5 channels, not of 3 or 1; choose"):
        save_clip(tmp_path / "5", 5, means=3).build()
