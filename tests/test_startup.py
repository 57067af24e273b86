"""Start-up: checking a spec is cheap enough for an editor's every save, and imports no torch."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive.__main__ import main
from tests.conftest import SCRIPT

pytestmark = pytest.mark.slow

MOST_MODULES = 60  # the verbs and the configs; the package has over 200
SPEC = Path(__file__).parents[1] / "examples" / "flickr30k_clip" / "clip.yaml"
COMMANDS = {
    "help": ("--help",),
    "validate": ("validate", SPEC),
    "validate with an override": ("validate", SPEC, "training.epochs=2"),
}
HEAVY = {"torch", "numpy", "PIL", "timm", "transformers", "sentence_transformers", "safetensors"}
HEAVY |= {"datasets", "pyarrow"}
OTHERS = {
    "rich",
    "contrastive.cli.train",
    "contrastive.cli.plugins",
    "contrastive.config.json_schema",
}
"""What prints progress or tables, and other verbs: a tenth of the time of a spec each."""


def python(*args) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS)
def test_neither_help_nor_validation_imports_what_computes_nor_all_too_much(args):
    listed = python("-X", "importtime", SCRIPT, *args).stderr.splitlines()
    names = {line.rpartition("|")[2].strip() for line in listed}
    assert "contrastive.cli" in names
    assert not {name.partition(".")[0] for name in names} & HEAVY
    assert len({name for name in names if name.startswith("contrastive.")}) <= MOST_MODULES
    if "validate" in args:
        assert "contrastive.spec" in names
        assert not names & OTHERS


@pytest.mark.parametrize(
    "module", ["contrastive", "contrastive.spec", "contrastive.config.json_schema"]
)
def test_importing_a_module_of_the_spec_layer_imports_nothing_that_computes(module):
    listed = python("-c", f"import {module}, sys; print(*sys.modules)").stdout.split()
    assert not {name.partition(".")[0] for name in listed} & HEAVY


@pytest.mark.parametrize("library", ["json", "triton"])
def test_the_last_collection_of_garbage_is_left_out_unless_a_library_tells_of_leaks(
    library, monkeypatch
):
    frozen = []
    monkeypatch.setattr("contrastive.cli.main", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setitem(sys.modules, library, sys.modules.get(library, sys))
    main()
    assert frozen == [1] * (library != "triton")
