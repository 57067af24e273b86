"""A few architectures of every library: ``python -m tests.sweep`` judges all of them."""

import json
import os
import warnings
from functools import partial

import pytest
import torch

from tests.sweep import of_images, of_sentence_transformers, of_timm, of_transformers
from tests.sweep.processes import share_imports, verdicts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
]

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


# of a form that one has that is judged by day: a BERT, a decoder, an encoder-decoder, a pyramid
NIGHTLY = {"timm test_efficientnet"} | {
    f"hf-text {name}" for name in ("distilbert", "roberta", "electra", "mpnet", "qwen3", "bart")
}
NIGHTLY |= {f"hf-image {name}" for name in ("levit", "mobilevit", "pvt_v2")}


@pytest.fixture(scope="module")
def judged(forkserver, shared_folder):
    """Judge all in processes that share what is imported, as the whole sweep does."""

    def judge(by_night, folder):
        process = forkserver.Process(target=main, args=(by_night, folder / "report.json"))
        process.start()
        process.join()
        assert process.exitcode == 0

    def verdict(name):
        by_night = name in NIGHTLY
        folder = shared_folder(f"sweep-{by_night}", partial(judge, by_night))
        return json.loads((folder / "report.json").read_text())[name]

    return verdict


def main(by_night, report):
    """Write the verdicts on those of the night, or of the day."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    share_imports([FEW["timm test_vit"], FEW["hf-text bert"], FEW["sentences bert mean"]])
    some = {name: make for name, make in FEW.items() if (name in NIGHTLY) is by_night}
    found = verdicts(some, processes=1, seconds=120)
    report.write_text(json.dumps({name: [one.outcome, one.reason] for name, one, _ in found}))


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.nightly] if one in NIGHTLY else []) for one in FEW],
)
def test_an_encoder_does_what_its_library_does(name, judged):
    """Alone, in a batch, frozen, saved and loaded."""
    assert judged(name) == ["right", ""]
