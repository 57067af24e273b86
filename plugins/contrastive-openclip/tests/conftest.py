import json
import math

import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_model

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
KINDS = {
    "softmax": CLIP | {"quick_gelu": True},
    "sigmoid": CLIP | {"init_logit_bias": -10, "custom_text": True},
}
SQUASHED = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
SHARP = math.log(100) + 1e-6  # as that of OpenAI's CLIP, which rounding puts above 100


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Let the Hugging Face cache be empty and the Hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Return folders of tiny models as open_clip saves them, with the model and its transform."""
    torch.manual_seed(0)
    found = {}
    for kind, config in KINDS.items():
        folder = tmp_path_factory.mktemp("open_clip") / kind
        folder.mkdir()
        whole = {"model_cfg": config, "preprocess_cfg": SQUASHED}
        (folder / "open_clip_config.json").write_text(json.dumps(whole))
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # so that unlike samples have unlike embeddings
                    parameter.normal_(std=0.2)
            model.logit_scale.fill_(SHARP)
        save_model(model, folder / "open_clip_model.safetensors")
        found[kind] = folder, model.eval(), transform
    return found


@pytest.fixture(scope="session")
def pictures():
    """Shapes of many colours and sizes, one of them not square."""
    drawn = []
    for index in range(6):
        picture = Image.new("RGB", (64, 48 if index == 5 else 64), (40 * index, 90, 200))
        ends = (8 + index, 8, 50 - 3 * index, 40)
        ImageDraw.Draw(picture).ellipse(ends, fill=(250 - 40 * index, 20 * index, 60))
        drawn.append(picture)
    return drawn


@pytest.fixture(scope="session")
def texts():
    """Return texts of unlike lengths, one cut off."""
    return ["a red circle", "A  RED circle!!", "", "two blue squares, side by side", "red " * 100]
