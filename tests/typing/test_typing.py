"""Specs in Python are typed: what is right passes a strict checker, each mistake is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parent


@pytest.fixture(scope="module")
def errors():
    """Return the lines of each sample in which pyright finds an error."""
    pytest.importorskip("pyright")
    pyright = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    samples = [SAMPLES / "right.py", SAMPLES / "wrong.py"]
    done = subprocess.run([*pyright, *samples], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        pytest.skip(f"pyright cannot run here: {done.stderr[-200:]}")
    return {
        name: {e["range"]["start"]["line"]: e["message"] for e in found if e["file"].endswith(name)}
        for name in ("right.py", "wrong.py")
    }


def test_a_right_sample_has_no_errors(errors):
    assert errors["right.py"] == {}


def test_every_mistake_of_the_wrong_sample_is_found_and_nothing_else(errors):
    lines = (SAMPLES / "wrong.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines) if "# wrong: " in line}
    assert set(errors["wrong.py"]) == marked
