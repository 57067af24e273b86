"""The comparison of losses: whoever fails, it goes on, says so, and its table has the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# tests/test_stand_ins.py runs the comparison as its page does
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

ROOT = Path(__file__).parents[1]
PLANTED = """
import os
from dataclasses import replace
from benchmarks.losses.implementations import NAIVE

def wrong(problem):
    call = NAIVE.prepare(problem)
    return lambda: 1.001 * call()

def raises(problem):
    raise RuntimeError("planted")

WRONG = replace(NAIVE, prepare=wrong)
RAISES = replace(NAIVE, prepare=raises)
EXITS = replace(NAIVE, prepare=lambda problem: os._exit(3))
ABSENT = replace(NAIVE, package="no-such-package")
"""
PEERS = [f"planted:{name}" for name in ("WRONG", "RAISES", "EXITS", "ABSENT")] + ["nobody:NOTHING"]


@pytest.fixture(scope="module")
def measure(tmp_path_factory):
    """Run the comparison in a tiny size: ``measure("--deadline", "9") -> folder``."""
    site = tmp_path_factory.mktemp("site")
    (site / "planted.py").write_text(PLANTED)
    env = os.environ | {"PYTHONPATH": str(site)}

    def run(*args: str) -> Path:
        output = tmp_path_factory.mktemp("measured")
        tiny = ["--device", "cpu", "--sizes", "64", "--widths", "16", "--ours", "eager"]
        command = [sys.executable, "-m", "benchmarks.losses", *tiny, "--output", output, *args]
        subprocess.run(command, check=True, cwd=ROOT, env=env, capture_output=True)
        return output

    return run


@pytest.fixture(scope="module")
def folder(measure):
    return measure(
        "--deadline",
        "900",
        "--peers",
        ",".join(PEERS),
        "--sections",
        "correctness,speed",
        "--seed",
        "1",
    )


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def statuses(results, name):
    return {x["status"] for x in results["correctness"] if x["implementation"] == name}


def test_the_results_say_where_they_come_from(results):
    assert results["about"]["device"]
    assert results["about"]["versions"].keys() >= {"python", "torch"}
    assert "--sizes 64" in results["about"]["command"]
    assert "--output" not in results["about"]["command"]
    assert isinstance(results["options"]["seed"], int)


def test_every_round_visits_whoever_can_run_and_all_rounds_are_kept(results):
    for case in results["speed"]:
        assert len(case["rounds"]) == 15
        assert all(x.keys() == {"naive", "eager", "planted:WRONG"} for x in case["rounds"])
        assert case["first"].keys() >= {"naive", "eager"}
    assert {(x["loss"], x["mode"], x["raw"]) for x in results["speed"]} == {
        ("infonce", "both", False),
        ("infonce", "forward", False),
        ("infonce", "both", True),
        ("sigmoid", "both", False),
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="has no high-water mark")
def test_memory_is_measured_beside_the_gradients_that_are_returned(results):
    case = next(x for x in results["speed"] if (x["mode"], x["raw"]) == ("both", False))
    assert case["memory"].keys() >= {"naive", "eager"}
    assert case["memory"]["naive"]["gradients"] == 2 * 64 * 16 * 4 + 4  # both towers and the scale


def test_a_right_loss_passes_and_a_wrong_one_fails_in_every_regime(results):
    for check in (x for x in results["correctness"] if x["implementation"] == "eager"):
        worst = max(check["errors"].values())
        # fp32 has few digits left in logits of 100, so that the bar is missed with some seeds
        assert check["status"] == "PASS" or ("s=100" in check["regime"] and worst < 1e-4), check
    assert statuses(results, "planted:WRONG") == {"FAIL"}
    assert len({x["regime"] for x in results["correctness"]}) == 8
    ragged = [x for x in results["correctness"] if x["rows"][0] != x["rows"][1]]
    assert {x["implementation"] for x in ragged} == {"eager"}  # the others take squares only


def test_who_raises_ends_the_process_or_is_not_there_is_recorded(results):
    assert statuses(results, "planted:RAISES") == {"error"}
    assert all("planted" in x["failed"]["planted:RAISES"] for x in results["speed"])
    assert "status 3" in results["ended"]["planted:EXITS"]
    assert results["skipped"] == []
    missing = {name: x["missing"] for name, x in results["implementations"].items()}
    assert "pip install --no-deps no-such-package" in missing["planted:ABSENT"]
    assert "nobody" in missing["nobody:NOTHING"]


def test_the_table_is_made_of_the_results_alone(folder):
    from benchmarks.losses.report import write_report

    table = (folder / "results.md").read_text()
    for text in ("PASS", "**FAIL** (loss, gradients", "| 64 | 16 | eager |", "status 3", "nobody"):
        assert text in table
    (folder / "results.md").unlink()
    write_report(folder / "results.json")
    assert (folder / "results.md").read_text() == table
    assert {x.name for x in folder.glob("*.png")} == {"results_time.png", "results_memory.png"}


def test_nothing_begins_after_the_deadline_and_all_that_is_left_is_named(measure):
    folder = measure("--deadline", "0", "--peers", "")
    results = json.loads((folder / "results.json").read_text())
    assert results["speed"] == results["correctness"] == results["ceilings"] == []
    skipped = [x["step"] for x in results["skipped"]]
    assert "ceilings" in skipped
    assert "speed infonce 64 x 16 both unit fp32" in skipped
    assert "no time left" in (folder / "results.md").read_text()
