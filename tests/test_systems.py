"""Other systems than Linux: nothing needs what Windows lacks. ``smoke.py`` is for the real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_without_what_windows_lacks_all_is_imported_and_a_model_trained_resumed_and_used(tmp_path):
    script = Path(__file__).with_name("like_windows.py")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "images" in done.stdout
    left = {path.name for path in (tmp_path / "runs" / "clip").iterdir()}
    assert left - {".contrastive.lock"} == {
        "checkpoints",
        "log.jsonl",
        "model",
    }  # Windows has no lock left
