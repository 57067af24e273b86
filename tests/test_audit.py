"""No code of a stranger runs: every verb opens hostile folders, and an audit hook looks on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import audited

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="has pipes and alarms"),
]


EVERY = [48, pytest.param(1, marks=pytest.mark.nightly)]  # as 48, but each command on each run


@pytest.fixture(scope="module", params=EVERY)
def report(request, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, given)])
    env = os.environ | {"CONTRASTIVE_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    env |= {"HF_MODULES_CACHE": str(folder / "here" / "modules")}  # where transformers puts code
    (folder / "here").mkdir()
    done = subprocess.run(
        [sys.executable, audited.__file__, models, str(request.param)],
        cwd=folder / "here",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_verb_is_tried(report):
    assert report["verbs"] == sorted(audited.COMMANDS), (
        "a verb needs its commands in tests/audited.py"
    )
    assert report["started"][0] == 0, report["started"]
    assert report["runs"] >= 20


def test_no_code_runs_and_nothing_is_unpickled(report):
    print(f"{len(report['done'])} commands and calls on {report['runs']} kinds of hostile runs")
    assert {what: events for what, _, _, events in report["done"] if events} == {}
    trusted, unpickled = report["controls"]
    assert any(event.startswith("compile") for event in trusted[3]), trusted
    assert "unpickle builtins.exec" in unpickled[3]
    assert report["ran"] == ["theirs.head_below.evil", "a pickle"], "only what had to be noticed"


def test_no_mistake_ends_in_a_traceback(report):
    assert [(what, said[-600:]) for what, _, said, _ in report["done"] if "Traceback" in said] == []
