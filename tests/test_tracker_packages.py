"""Each tracker in an environment of its own: what it shows is the log, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pages import ROOT
from tests.tracked import FIELDS, SAVED, STEPS

pytestmark = pytest.mark.nightly


def run(*command, **more):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize("tracker", FIELDS)
def test_a_tracker_shows_the_log_also_of_a_run_that_was_killed_and_resumed(tracker, tmp_path):
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "env" / "bin" / "python"
    same_torch = f"torch=={torch.__version__.partition('+')[0]}"
    for words in (
        ("venv", "--quiet", "--python", sys.executable, tmp_path / "env"),
        ("pip", "install", "--quiet", "--python", python, f"{ROOT}[{tracker}]", same_torch),
    ):
        made = run(uv, *words)
        assert made.returncode == 0, made.stderr
    hidden = ("PYTHONPATH", "WANDB_API_KEY", "MLFLOW_TRACKING_URI")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "NETRC": str(tmp_path / "netrc")}

    def tracked(verb):
        return run(python, ROOT / "tests" / "tracked.py", verb, tmp_path, tracker, env=env)

    killed, resumed, shown = (tracked(verb) for verb in ("train", "resume", "read"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert resumed.returncode == 0, resumed.stderr
    log = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    expected = {
        line["step"]: pytest.approx(line["loss"], rel=1e-6) for line in log if "loss" in line
    }
    assert [*expected] == [*range(1, STEPS + 1)]
    runs = json.loads(shown.stdout.splitlines()[-1])
    last = dict(map(tuple, runs[-1]["loss"]))
    assert len(last) == len(runs[-1]["loss"]), "a step twice"
    if len(runs) == 1:
        assert last == expected
        return
    before, after = runs
    assert last == {step: loss for step, loss in expected.items() if step > SAVED}
    assert after["from"] == before["id"]
    assert f"goes on from {before['id']}" in resumed.stderr.replace("'", "")
    shown_before = dict(map(tuple, before["loss"]))
    assert shown_before == {step: expected[step] for step in shown_before}
    if tracker != "wandb":  # which offline keeps blocks of 32 kB in memory
        assert max(shown_before) >= SAVED
