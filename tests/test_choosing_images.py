"""A model that chooses among places runs images one by one, so that no batch counts."""

import pytest
import torch
import transformers as t
from PIL import Image

from contrastive import build_model, load_model
from contrastive.encoders import HFImage
from tests.tiny_encoders import features

pytestmark = pytest.mark.usefixtures("one_seed", "offline")

BACKBONE = {"model_type": "rf_detr_dinov2", "hidden_size": 16, "num_hidden_layers": 2}
BACKBONE |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14, "num_windows": 2}
BACKBONE |= {"out_features": ["stage1", "stage2"], "window_block_indexes": [0]}
HEADS = {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2}


@pytest.fixture
def rf_detr(tmp_path):
    """A folder of an RF-DETR, which decodes its best places."""
    if not hasattr(t, "RfDetrModel"):
        pytest.skip("this transformers has no RF-DETR")
    sizes = {"num_queries": 5, "d_model": 16, "decoder_ffn_dim": 16, "group_detr": 2}
    model = t.RfDetrModel(t.RfDetrConfig(backbone_config=BACKBONE, **sizes, **HEADS)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=4 * parameter.shape[-1] ** -0.5)
    model.save_pretrained(tmp_path / "hf")
    size = {"height": 56, "width": 56}
    t.RfDetrImageProcessor(size=size).save_pretrained(tmp_path / "hf")
    return str(tmp_path / "hf")


def noise(height, width):
    return Image.fromarray(torch.randint(256, (height, width, 3)).byte().numpy())


def test_features_are_those_of_each_image_alone(rf_detr, capsys):
    module = HFImage(name=rf_detr).build().eval()
    told = "its features change with the batch, so images are run one by one"
    assert capsys.readouterr().err.count(told) == 1
    images = [noise(240, 320), noise(60, 60), noise(90, 50)]
    alone = torch.cat([features(module, [image]) for image in images])
    assert torch.equal(features(module, images), alone)
    assert torch.equal(features(module, images[::-1]).flip(0), alone)


def test_they_are_when_the_model_was_saved_and_loaded(rf_detr, tmp_path):
    towers = {
        "image": {"encoder": {"type": "hf-image", "name": rf_detr}, "head": {"type": "linear"}},
        "text": {"encoder": {"type": "cbow", "width": 4}, "head": {"type": "linear"}},
    }
    model = build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})
    model.save(tmp_path / "saved")
    images = [noise(60, 60), noise(90, 50)]
    loaded = load_model(tmp_path / "saved")
    alone = torch.cat([loaded.embed("image", [image]) for image in images])
    torch.testing.assert_close(loaded.embed("image", images), alone, rtol=1e-6, atol=1e-6)
