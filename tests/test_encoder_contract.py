"""Every built-in encoder keeps the contract: raw samples in, ``[B, F]`` out, whatever the batch."""

import operator
import random
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.encoders import (
    CBOW,
    Encoder,
    HFText,
    ResNet,
    SentenceTransformers,
    TextTransformer,
    Timm,
    ViT,
    encoders,
)
from contrastive.errors import BadSample
from contrastive.testing.processes import in_subprocess
from tests.tiny_encoders import (
    KINDS_OF_PREPROCESSING,
    SIDE,
    SPECS,
    TEXTS,
    every_encoder,
    features,
    samples_of,
)

pytestmark = pytest.mark.usefixtures("one_seed", "offline")


@every_encoder
def test_features_have_one_row_a_sample_and_the_width_it_says(which, built):
    module = built(which)
    out = features(module, samples_of(module))
    assert out.shape == (4, module.out_dim)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.std(0).max() > 0  # different samples, different features


@every_encoder
def test_the_order_of_a_batch_does_not_matter(which, built):
    module = built(which)
    samples = samples_of(module)
    backwards = features(module, samples[::-1]).flip(0)
    torch.testing.assert_close(backwards, features(module, samples), atol=1e-5, rtol=1e-4)


@every_encoder
def test_neither_the_batch_nor_its_padding_changes_a_sample(which, built):
    module = built(which)
    samples = samples_of(module)
    alone = torch.cat([features(module, [sample]) for sample in samples])
    torch.testing.assert_close(alone, features(module, samples), atol=1e-5, rtol=1e-4)


@every_encoder
def test_eval_mode_is_deterministic_and_draws_nothing(which, built):
    module = built(which)
    before = torch.get_rng_state()
    first, second = (features(module, samples_of(module)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@every_encoder
def test_gradients_reach_every_parameter(which, built):
    module = built(which).eval()
    module.zero_grad()
    module(**module.preprocess(samples_of(module))).square().sum().backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None]
    module.zero_grad()


@pytest.mark.slow
@every_encoder
def test_training_mode_works_under_autocast(which, built):
    module = built(which).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(**module.preprocess(samples_of(module)))
    assert out.shape == (4, module.out_dim)
    assert out.isfinite().all()


class Holder(Config):
    encoder: Encoder
    """Any."""


@every_encoder
def test_a_spec_survives_yaml_and_json(which, models, tmp_path):
    holder = Holder(encoder=SPECS[which](models))
    (tmp_path / "spec.yaml").write_text(files.dump_spec(holder))
    assert files.load_spec(Holder, tmp_path / "spec.yaml") == holder
    assert Holder.model_validate_json(holder.model_dump_json()) == holder


@pytest.mark.slow
def test_preprocessing_gives_the_same_in_a_worker_process(built, forkserver):
    modules = [built(which) for which in KINDS_OF_PREPROCESSING]
    jobs = [partial(module.preprocess, samples_of(module)) for module in modules]
    loader = DataLoader(
        jobs,
        batch_size=None,
        collate_fn=operator.call,
        num_workers=1,
        multiprocessing_context=forkserver,  # pickles
    )
    for module, inputs in zip(modules, loader, strict=True):
        expected = module.preprocess(samples_of(module))
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in inputs)


def reprs_of_preprocessing(specs):
    return [repr(Encoder.choose(spec).build().preprocess) for spec in specs]


@pytest.mark.slow
def test_the_repr_of_preprocessing_is_the_same_in_another_process(models, built):
    specs = [SPECS[which](models).model_dump(mode="json") for which in KINDS_OF_PREPROCESSING]
    ours = [repr(built(which).preprocess) for which in KINDS_OF_PREPROCESSING]
    assert in_subprocess(reprs_of_preprocessing, specs) == ours  # with another seed of hash


def test_the_repr_of_a_transform_names_every_number():
    said = repr(Timm(name="test_resnet", pretrained=False).build().preprocess)
    assert all(part in said for part in ("160", "0.95", "bilinear", "center", "(0.5, 0.5, 0.5)"))
    said = repr(ViT(image_size=48, width=16, depth=1, heads=1).build().preprocess)
    assert all(part in said for part in ("48", "bicubic", "CenterCrop", "(0.5, 0.5, 0.5)"))


@pytest.mark.slow
def test_a_crop_is_random_by_the_generator_of_torch_alone():
    for spec in [
        Timm(name="test_resnet", pretrained=False, augment="crop-flip"),
        ViT(image_size=SIDE, width=16, depth=1, heads=1, augment="crop-flip"),
        ResNet(layers=(1, 1, 1, 1), width=8, image_size=SIDE, augment="crop-flip"),
    ]:
        module = spec.build()
        samples = samples_of(module)
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(module.augment(samples)["image"])
            random.seed(len(drawn))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert drawn[0].shape == module.preprocess(samples)["image"].shape
        assert spec.model_copy(update={"augment": "none"}).build().augment is None
    own = Timm(name="test_resnet", pretrained=False, augment="crop-flip").build().augment
    assert "160" in repr(own)
    assert "interpolation=bilinear" in repr(own)


def test_only_what_the_spec_brings_back_is_reproducible(built):
    loaded = [f for f in SPECS if f.startswith(("hf-", "sentence", "timm, p")) and "rand" not in f]
    assert [which for which in SPECS if built(which).reproducible] == [
        which for which in SPECS if which in loaded
    ]


def test_long_texts_are_cut(models):
    long = [" ".join(["dog"] * 1000)]
    for spec, longest in [
        (HFText(name=f"{models}/bert"), 24),
        (HFText(name=f"{models}/bert", max_length=7), 7),
        (HFText(name=f"{models}/t5"), 512),
        (SentenceTransformers(name=f"{models}/sentences", max_length=9), 9),
        (TextTransformer(width=8, depth=1, heads=1, max_length=11), 12),
        (CBOW(width=8, max_length=5), 5),
    ]:
        inputs = spec.build().preprocess(long)
        assert {tensor.shape for tensor in inputs.values()} == {(1, longest)}


@every_encoder
def test_what_is_no_sample_is_a_bad_sample(which, built):
    module = built(which)
    for bad in (None, 3, b"bytes", ["a", "b"]):
        with pytest.raises(BadSample) as error:
            module.preprocess([bad])
        assert "\n" not in str(error.value)


TEXT_SPECS = [which for which, make in SPECS.items() if make("").modality == "text"]


@pytest.mark.parametrize("which", TEXT_SPECS)
def test_strange_texts_do_no_harm(which, built):
    module = built(which)
    strange = ["\ud800", "\0", "é" * 500, "🦜" * 300, "日本語の文", " . ", "a\n\tb", "dog" * 9000]
    if "GPT-2" in which:
        with pytest.raises(BadSample, match="a text without tokens"):
            module.preprocess(["a dog", ""])
    else:
        strange.append("")
    assert features(module, [*strange, *TEXTS]).isfinite().all()


@pytest.mark.slow
def test_the_menu_imports_no_framework():
    code = """
import sys
from contrastive.encoders import encoders
names = list(encoders.registered)
heavy = {"torch", "timm", "transformers", "sentence_transformers", "torchvision", "numpy", "PIL"}
print(*names, *(heavy & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == list(encoders.registered)
    assert {cls.modality for cls in encoders.registered.values()} == {"image", "text"}
