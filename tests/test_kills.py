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
    ("seed", "killed", "method", "how"),
    [
        (0, 10, "fork", {"small": True}),
        (0, 6, "fork", {"small": True, "ranks": 2}),
        (0, 10, "fork", {"small": True, "shards": True}),
        (5, 6, "fork", {"small": True, "ranks": 2, "strategy": "fsdp"}),
        pytest.param(1, 200, "fork", {}, marks=pytest.mark.nightly),
        pytest.param(1, 200, "fork", {"shards": True}, marks=pytest.mark.nightly),
        pytest.param(1, 200, "fork", {"ranks": 2}, marks=pytest.mark.nightly),
        pytest.param(1, 200, "fork", {"ranks": 2, "strategy": "fsdp"}, marks=pytest.mark.nightly),
        pytest.param(0, 4, "forkserver", {}, marks=pytest.mark.nightly),  # Python 3.14's default
    ],
)
def test_no_signal_changes_a_run(forkserver, tmp_path, seed, killed, method, how):
    to = tmp_path / "report.json"
    arguments = (seed, killed, method, tmp_path / "runs", to)
    process = forkserver.Process(target=kills.report, args=arguments, kwargs=how)
    process.start()
    process.join()
    assert process.exitcode == 0
    counts, faults = json.loads(to.read_text())
    print(counts)
    assert faults == []
    assert counts["kills"] >= killed
