"""``contrastive.interface``: the one module that plugins, templates and their docs import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive import interface

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden_interface.txt")
TEMPLATES = ROOT / "contrastive" / "plugin_tools" / "templates"
SOURCES = sorted([*ROOT.glob("plugins/**/*.py"), *TEMPLATES.rglob("*.py")])
PAGE = ROOT / "docs" / "write_a_plugin.md"
ALLOWED = {"contrastive.interface"}
ALLOWED_IN_TESTS = ALLOWED | {"contrastive", "contrastive.testing"}


def imported(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return {name for name in found if name.partition(".")[0] == "contrastive"}


def test_names_are_added_and_removed_on_purpose():
    """After a deliberate change: edit the golden list, and raise INTERFACE if a name is gone."""
    assert sorted(interface.__all__) == GOLDEN.read_text().split()
    assert dir(interface) == sorted(interface.__all__)


@pytest.mark.parametrize("name", interface.__all__)
def test_each_name_leads_somewhere(name):
    assert getattr(interface, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'contrastive.interface' has no attribute 'Enc'"):
        _ = interface.Enc


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_plugins_and_templates_import_the_interface_alone(file):
    allowed = ALLOWED_IN_TESTS if "tests" in file.relative_to(ROOT).parts else ALLOWED
    assert imported(file.read_text(encoding="utf-8")) <= allowed


def test_the_tutorial_imports_the_interface_alone():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    for block in blocks:
        assert imported(block) <= ALLOWED_IN_TESTS


@pytest.mark.slow
def test_importing_configs_from_it_imports_no_torch():
    code = (
        "import sys; from contrastive.interface import Encoder, Loss, Dataset, Registry, BadSample;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unfinished_module_cannot_be_built():
    class NoForward(interface.EncoderModule):
        pass

    class NoCompute(interface.ScaledLoss):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        NoForward()
    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        interface.LossModule()
    with pytest.raises(TypeError, match=r"abstract method '?compute"):
        NoCompute(interface.losses["infonce"]())
