"""A few architectures of every library: ``python -m tests.sweep`` judges all of them."""

from functools import partial

import pytest
import torch

from tests.sweep import of_images, of_sentence_transformers, of_timm, of_transformers
from tests.sweep.judge import verdict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("offline")]

TIMM = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_mambaout"]
TEXTS = ["bert", "distilbert", "roberta", "electra", "mpnet", "gpt2", "llama", "qwen3", "t5"]
TEXTS += ["bart", "mamba", "fnet"]
IMAGES = ["hiera", "levit", "mobilenet_v2", "mobilevit", "vit", "pvt_v2"]
STACKS = ["bert mean", "qwen3 lasttoken", "Dense", "a default prompt", "StaticEmbedding", "BoW"]
FEW = {
    **{f"timm {name}": partial(of_timm.made, name) for name in TIMM},
    **{f"hf-text {name}": partial(of_transformers.text, name) for name in TEXTS},
    **{f"hf-image {name}": partial(of_images.image, name) for name in IMAGES},
    **{
        f"sentences {name}": of_sentence_transformers.candidates()[f"sentences {name}"]
        for name in STACKS
    },
    "hf-dual-text clip": partial(of_transformers.half, "clip", "text"),
}


@pytest.mark.parametrize("name", FEW)
def test_an_encoder_does_what_its_library_does(name, tmp_path):
    """Alone, in a batch, frozen, saved and loaded; in a process of its own in the whole sweep."""
    torch.set_num_threads(1)
    found = verdict(FEW[name], tmp_path)
    assert (found.outcome, found.reason) == ("right", "")
