"""Runs that are killed or interrupted at moments from a seed are the runs that never stopped."""

import json
import sys

import pytest

from tests import kills

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and forks"),
]


@pytest.mark.parametrize(
    ("seed", "trials"), [(0, 2), pytest.param(1, 60, marks=pytest.mark.nightly)]
)
def test_no_signal_changes_a_run(forkserver, tmp_path, seed, trials):
    to = tmp_path / "report.json"
    process = forkserver.Process(target=kills.report, args=(seed, trials, tmp_path / "runs", to))
    process.start()
    process.join()
    assert process.exitcode == 0
    counts, faults = json.loads(to.read_text())
    print(counts)
    assert faults == []
    assert counts["runs"] == trials
