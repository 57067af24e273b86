"""A run on tar shards goes on with other ranks and workers to the losses of one process."""

from __future__ import annotations

import pytest

from tests.shards import write_shards
from tests.test_elastic import RESNET, check_stretches
from tests.toys import tiny_model

pytestmark = pytest.mark.slow


@pytest.mark.nightly
def test_one_rank_with_two_workers_then_two_without_then_four(tmp_path, in_ranks):
    shards = write_shards(tmp_path / "s", 6, 20)
    settings = {"epochs": 4, "batch_size": 12, "lr": 1e-3}
    runs = {
        name: {
            "model": tiny_model("infonce"),
            "data": {"type": "webdataset", "shards": str(shards), "window": window},
            "training": settings.copy(),
            "evaluation": {"split": None},
        }
        for name, window in (("windows", 2), ("all", None))
    }
    for run in runs.values():
        run["model"]["towers"]["image"]["encoder"] = RESNET
    check_stretches(tmp_path, in_ranks, runs, [(1, 5), (2, 12), (4, None)], [2, 0, 0])
