"""Start-up: checking a spec is cheap enough for an editor's every save, and imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SCRIPT

pytestmark = pytest.mark.slow

# 300 ms of CPU where importing these takes 100 ms; a slow or busy machine slows both.
LIBRARIES = "import pydantic, ruamel.yaml, typer"
BUDGET = 3
SPEC = Path(__file__).parents[1] / "examples" / "flickr30k_clip" / "clip.yaml"
COMMANDS = {
    "help": ("--help",),
    "validate": ("validate", SPEC),
    "validate with an override": ("validate", SPEC, "training.epochs=2"),
}
HEAVY = {"torch", "numpy", "PIL", "timm", "transformers", "sentence_transformers", "safetensors"}
HEAVY |= {"datasets", "pyarrow"}


def python(*args) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


def cpu_seconds(*args) -> float:
    """Return the CPU time of a process from its start to its end, and of no other."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime)"
    )
    return float(python("-c", code, sys.executable, *args).stdout)


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS)
def test_neither_help_nor_validation_imports_what_computes(args):
    listed = python("-X", "importtime", SCRIPT, *args).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in listed}
    assert "contrastive" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS)
def test_help_and_validation_take_less_than_thrice_the_cpu_of_their_libraries(args):
    python(SCRIPT, *args)  # the first one writes the bytecode
    rounds = [(cpu_seconds(SCRIPT, *args), cpu_seconds("-c", LIBRARIES)) for _ in range(7)]
    ours, theirs = (min(seconds) for seconds in zip(*rounds, strict=True))
    assert ours < BUDGET * theirs


@pytest.mark.parametrize(
    "module", ["contrastive", "contrastive.spec", "contrastive.config.json_schema"]
)
def test_importing_a_module_of_the_spec_layer_imports_nothing_that_computes(module):
    listed = python("-c", f"import {module}, sys; print(*sys.modules)").stdout.split()
    assert not {name.partition(".")[0] for name in listed} & HEAVY
