"""Whatever ends at whichever file operation, nothing is lost, and nothing is left that stays.

A run is resumed to the same weights, losses, evaluations and moments, to the last bit. A crash
before an fsync leaves what one before the next operation leaves: only nightly tests try both, and
each operation; by day it is each third to twenty-fifth.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import pytest

from tests.crashing_run import Appending, Indexing, Saving, Training, report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and forks"),
]
nightly = pytest.mark.nightly


HOWS = ["crash", "EIO", "EACCES", "ENOSPC", "ENOSPC+"]


@pytest.fixture
def ended(forkserver, tmp_path):
    """Let work end at its operations: ``ended(make, hows, step, but)``; return what went wrong."""

    def call(make, hows, step=1, but=""):
        to = tmp_path / "report.json"
        process = forkserver.Process(
            target=report, args=(make, tmp_path / "work", hows, step, but, to)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        found = json.loads(to.read_text())
        for how, ends, wrong, seconds in found:
            print(f"{how}: ended at {ends} operations in {seconds:.0f} s: {len(wrong)} wrong")
            assert ends
        return [line for _, _, wrong, _ in found for line in wrong]

    return call


@pytest.mark.parametrize(
    ("epochs", "steps", "how", "step", "but"),
    [
        pytest.param(1, 2, "crash", 3, "fsync", marks=nightly),
        (1, 2, "crash", 11, "fsync"),
        (1, 2, "EIO", 25, ""),
        pytest.param(1, 2, "crash", 1, "fsync", marks=nightly),
        pytest.param(2, 3, "crash", 1, "", marks=nightly),
        *(pytest.param(2, 3, how, 2, "", marks=nightly) for how in HOWS[1:]),
    ],
)
def test_a_run_that_ends_at_any_operation_is_resumed_as_if_it_had_not(
    ended, epochs, steps, how, step, but
):
    assert not ended(partial(Training, epochs, steps), [how], step, but)


@pytest.mark.parametrize(
    ("exchange", "step"),
    [
        pytest.param(True, 3, id="exchange"),
        pytest.param(True, 1, id="exchange, each", marks=nightly),
        pytest.param(False, 1, id="two renames", marks=nightly),
    ],
)
def test_saving_over_a_model_leaves_one_of_the_two_whole(ended, exchange, step):
    """A file that somebody has put beside the weights stays, too."""
    assert not ended(partial(Saving, exchange), HOWS, step)


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=nightly)])
def test_features_are_added_without_harm_to_those_that_are_mapped(ended, step):
    assert not ended(Appending, HOWS, step)


@pytest.mark.parametrize("step", [25, pytest.param(1, marks=nightly)])
def test_an_index_is_in_its_old_or_new_state_and_brought_to_the_new_one(ended, step):
    assert not ended(Indexing, HOWS, step)
