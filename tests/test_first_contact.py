"""The first minutes on a GPU, tried on a CPU: whatever hangs, what is known by then is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.losses.command import main
from benchmarks.losses.thresholds import threshold_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PLANTED = """
import os
from dataclasses import replace
from threading import Event
from benchmarks.losses.implementations import NAIVE

def hang(problem):
    Event().wait()

def kill(problem):
    os.kill(os.getppid(), 9)
    hang(problem)

HANGS = replace(NAIVE, prepare=hang, limit=0.5)
NEVER_ENDS = replace(NAIVE, prepare=hang)
KILLS = replace(NAIVE, prepare=kill)
BREAKS = replace(NAIVE, prepare=lambda problem: 1 / 0, kernels=True, ours=True)
"""
SMALL = "--sizes 64 --widths 16 --threads 1 --ours eager,chunked"


class Measured:
    """What a run left."""

    def __init__(self, folder, done):
        self.folder = folder
        self.files = sorted(path.name for path in folder.glob("*"))
        self.code, self.told = done.returncode, done.stderr
        path = folder / "results.json"
        self.data = json.loads(path.read_text()) if path.exists() else {}

    @property
    def reached(self):
        """The steps that were done."""
        return {*self.data["done"]} - {x["step"] for x in self.data["skipped"]}

    @property
    def left_out(self):
        """Why steps were not done, by their names."""
        return {x["step"]: x["reason"] for x in self.data["skipped"]}


@pytest.fixture
def contact(tmp_path):
    """Run ``first-contact`` on the CPU; a run that does not end by itself fails the test."""
    site, output = tmp_path / "site", tmp_path / "measured"
    site.mkdir()
    (site / "planted.py").write_text(PLANTED)
    env = os.environ | {"PYTHONPATH": str(site)}

    def run(arguments, *more, **variables):
        command = [sys.executable, "-m", "benchmarks.losses", "first-contact", "--output", output]
        done = subprocess.run(
            [*command, *arguments.split(), *more],
            cwd=ROOT,
            env=env | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        return Measured(output, done)

    run.site = site
    return run


@pytest.mark.nightly
def test_a_call_that_hangs_ends_alone_and_is_named(contact):
    few = "--sections speed --losses infonce --dtype fp32 --ids none --rounds 1"
    found = contact(f"{SMALL} {few} --deadline 900 --peers planted:HANGS")
    assert found.code == 0
    (case,) = found.data["speed"]
    assert case["rounds"][0].keys() == {"naive", "eager", "chunked"}
    step = "speed infonce 64 x 16 both unit fp32"
    assert {(x["step"], x["implementation"]) for x in found.data["lost"]} == {
        (step, "planted:HANGS")
    }
    assert f"{step}: planted:HANGS did not end within 0.5 s" in found.told
    assert "planted:HANGS: did not end within" in (found.folder / "results.md").read_text()
    assert "slower at all sizes" in found.told or "faster at all sizes" in found.told
    assert len(found.files) <= 7


def test_a_run_that_is_killed_leaves_what_it_had_and_no_process(contact):
    few = "--sections ids,speed --losses infonce --dtype fp32 --ids none"
    found = contact(f"{SMALL} {few} --deadline 9000 --peers planted:KILLS")
    assert found.code == -9
    # every process holds the pipes that the test reads to their end, so that none is left
    assert found.data["correctness"][0]["implementation"] == "eager"
    assert len(found.files) <= 7


@pytest.mark.nightly
@pytest.mark.parametrize("deadline", ["0", "60"])
def test_at_the_deadline_all_ends_and_what_was_not_reached_is_told(contact, deadline):
    few = "--losses infonce --dtype fp32 --limit 9000"
    found = contact(f"{SMALL} {few} --deadline {deadline} --peers planted:NEVER_ENDS")
    assert found.code == 0
    assert found.reached | found.left_out.keys() == {*found.data["steps"]}
    assert "no time left" in found.left_out.values()
    assert "no time left" in (found.folder / "results.md").read_text()
    assert len(found.files) <= 7


@pytest.mark.nightly
def test_everything_is_tried_at_small_sizes(contact):
    few = "--deadline 9000 --rounds 1 --peers planted:BREAKS --seed 1"
    found = contact(f"{SMALL},default {few}")
    assert found.code == 0
    assert found.left_out == {"host": "needs a GPU", "tiles": "needs a GPU"}
    assert {x["implementation"] for x in found.data["kernels"]} == {"chunked"}
    assert "ZeroDivisionError" in str(found.data["compiled"]["failed"])
    judged = [x for x in found.data["correctness"] if x["implementation"] != "planted:BREAKS"]
    assert {x["status"] for x in judged} == {"PASS"}
    assert {x["ids"] for x in judged} == {"none", "mask", "multi"}
    assert {x["loss"] for x in judged} == {"infonce", "one-sided", "sigmoid"}
    assert {(*x["rows"], x["width"]) for x in judged} >= {(80, 70, 16), (61, 82, 20), (31, 31, 51)}
    assert {(x["dtype"], x["ids"]) for x in found.data["speed"]} == {
        (dtype, ids) for dtype in ("fp32", "bf16") for ids in ("none", "multi")
    }


@pytest.mark.nightly
@pytest.mark.skipif(not find_spec("triton"), reason="needs Triton")
def test_the_kernels_are_judged_in_the_interpreter(contact):
    few = "--sections compile,ids --widths 16 --threads 1 --ours fused,fused-low-memory"
    found = contact(f"{few} --sizes 64 --deadline 9000 --limit 900", TRITON_INTERPRET="1")
    compiled = found.data["compiled"]
    assert compiled["compiled"]
    assert compiled["failed"] == {}
    ours = [x for x in found.data["correctness"] if x["implementation"].startswith("fused")]
    assert {x["status"] for x in ours} == {"PASS"}
    assert {(x["loss"], x["ids"]) for x in ours} == {
        (loss, ids)
        for loss in ("infonce", "one-sided", "sigmoid")
        for ids in ("none", "mask", "multi")
    }


@pytest.mark.parametrize(
    ("ratios", "line"),
    [
        ((2.0, 1.5, 0.9, 0.5), 'set LARGE["cuda"] = 2**25 in contrastive/losses/auto_execution.py'),
        ((0.9, 0.8, 0.7, 0.6), 'LARGE["cuda"] for fused: at most 2**20'),
        ((3.0, 0.9, 3.0, 3.0), 'LARGE["cuda"] for fused: more than 2**28'),
    ],
)
def test_the_threshold_is_where_fused_comes_to_beat_eager_for_good(ratios, line):
    kind = {"loss": "infonce", "d": 512, "mode": "both", "raw": False, "dtype": "bf16"}
    sizes = (1024, 4096, 8192, 16384)
    speed = [
        kind | {"ids": "none", "n": n, "rounds": [{"eager": 2.0, "fused": 2.0 * ratio}]}
        for n, ratio in zip(sizes, ratios, strict=True)
    ]
    options = {"device": "cuda", "widths": [512]}
    *_, last = threshold_lines({"options": options, "speed": speed})
    assert last.startswith(line)


@pytest.mark.nightly  # two more starts
def test_a_module_that_is_missing_is_named_and_comes_from_a_folder_of_wheels(contact, tmp_path):
    name = "annotated_types"
    absent = f"raise ModuleNotFoundError('No module named {name}', name='{name}')"
    (contact.site / f"{name}.py").write_text(absent)
    few = f"{SMALL} --sections speed --losses infonce --deadline 0"
    found = contact(few)
    assert found.code == 1
    (line,) = found.told.splitlines()
    assert line.startswith(f"{name} is missing; install {name}, or put its wheel")

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    found = contact(few, "--wheels", str(wheels))
    assert "there is no .whl file" in found.told

    with zipfile.ZipFile(wheels / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for file in Path(find_spec(name).origin).parent.glob("*.py"):
            wheel.write(file, f"{name}/{file.name}")
    found = contact(few, "--wheels", str(wheels))
    assert found.code == 0, found.told
    assert found.left_out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    words = ["first-contact", "--output", str(tmp_path), "--device", "cuda", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(words, started=time.time())  # which starts another process
    (line,) = capfd.readouterr().err.splitlines()
    assert "take --device cpu" in line
    assert ended.value.code == 1
