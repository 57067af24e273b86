"""Start-up: checking a spec is cheap enough for an editor's every save, and imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import SCRIPT

BUDGET = 0.3  # seconds of CPU, user and system
SPEC = """\
model:
  towers:
    image: {encoder: {type: good-image}, head: {type: mlp}, frozen: encoder}
    text: {encoder: {type: good-text, name: anna}, head: {type: linear}}
  loss: {type: infonce}
data: {type: image-folder, folder: pictures}
training: {epochs: 1, lr: 1e-3}
"""
COMMANDS = [("--help",), ("validate", "run.yaml"), ("validate", "run.yaml", "training.epochs=2")]
HEAVY = {"torch", "numpy", "PIL", "timm", "transformers", "sentence_transformers", "safetensors"}


@pytest.fixture(scope="module")
def folder(site):
    """Return a folder with a spec and an installed package whose encoders it names."""
    folder = site("good")
    (folder / "run.yaml").write_text(SPEC)
    return folder


def python(folder, *args):
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )


def cpu_seconds(folder, *args) -> float:
    """Return the CPU time of a process from its start to its end, and of no other."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime)"
    )
    return float(python(folder, "-c", code, sys.executable, SCRIPT, *args).stdout)


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_neither_help_nor_validation_imports_what_computes(args, folder):
    listed = python(folder, "-X", "importtime", SCRIPT, *args).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in listed}
    assert "contrastive" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("args", COMMANDS[:2], ids=" ".join)
def test_help_and_validation_take_less_than_300_ms_of_cpu(args, folder):
    python(folder, SCRIPT, *args)  # the first one writes the bytecode
    assert min(cpu_seconds(folder, *args) for _ in range(5)) < BUDGET


@pytest.mark.parametrize("module", ["contrastive", "contrastive.spec", "contrastive.schema"])
def test_importing_a_module_of_the_spec_layer_imports_nothing_that_computes(module, folder):
    listed = python(folder, "-c", f"import {module}, sys; print(*sys.modules)").stdout.split()
    assert not {name.partition(".")[0] for name in listed} & HEAVY
