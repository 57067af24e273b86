"""The comparison with other packages: what was measured, and what was not and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.report import comparisons, write_report

ROOT = Path(__file__).parents[1]


def measured(folder, *options):
    """Measure in a tiny size, and return what the run left."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--tiny", "--rounds", "1", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    path = folder / "results.json"
    return done, json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def results(tmp_path):
    """Write what a run with two rounds leaves: one bar met, one missed, one peer left out."""
    work = {
        "title": "a step",
        "unit": "samples/s",
        "more_is_better": True,
        "pairs": [["ours", "slow", 1.2], ["ours", "quick", 1.1], ["ours", "absent", 1.0]],
        "rounds": [
            {"ours": 12.0, "slow": 8.0, "quick": 16.0},
            {"ours": 6.0, "slow": 4.0, "quick": 5.0},
            {"ours": 7.0, "slow": 7.0},
        ],
        "left_out": {"absent": "absent is not installed"},
    }
    about = {"command": "python -m benchmarks.peers", "versions": {"torch": "2"}, "device": "CPU"}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"about": about, "works": {"step": work}}))
    return path


def test_ratios_are_taken_within_rounds(results):
    slow, quick = comparisons(json.loads(results.read_text()))
    assert slow.ratios == [1.5, 1.5, 1.0]
    assert (slow.ratio, slow.met) == (1.5, True)
    assert quick.ratios == pytest.approx([0.75, 1.2])
    assert (quick.ratio, quick.met) == (pytest.approx(0.975), False)


def test_the_table_has_what_was_measured_and_why_the_rest_was_not(results):
    write_report(results)
    table = results.with_suffix(".md").read_text()
    assert "| absent | left out: absent is not installed | |" in table
    assert "| a step | ours | slow | 1.50 (1.00 to 1.50) | ≥ 1.2 | met |" in table
    assert "| a step | ours | quick | 0.97 (0.75 to 1.20) | ≥ 1.1 | **missed** |" in table
    assert results.with_suffix(".png").stat().st_size > 0


def test_a_work_that_there_is_not_is_told_with_those_that_there_are(tmp_path):
    done, _ = measured(tmp_path, "--works", "steps", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "--works: steps; there are step, frozen, encode, start, search" in done.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_all_works_are_measured_here_and_peers_that_are_not_installed_are_told(tmp_path):
    done, data = measured(tmp_path, "--threads", "1", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("step", "frozen", "encode", "start"):
        work = data["works"][name]
        assert [x for x in work["rounds"][0] if x.startswith(("ours", "contrastive"))], work
        assert all("is not installed" in why for why in work["left_out"].values()), work
    assert {"search, 1 of 100 x 512", "recall, 20 x 100", "pml-nt-xent"} <= data["works"].keys()
