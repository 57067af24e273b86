"""What the feature cache saves and costs. Run with ``make bench``.

Three epochs over frozen towers, cached against encoded anew: both start from nothing; the cached
run pays for its one encoding. Then the store alone: finding one key, and all keys of a run, among
few and many rows; and the features of a training step, from one part and from several. The column
in brackets is the ratio to the fastest one of the table.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from contrastive import RunSpec
from contrastive.data.samples import Samples, rows_of
from contrastive.datasets import Dataset, Purpose
from contrastive.features import parts
from contrastive.features.cache import FeatureCache
from contrastive.features.store import Store
from contrastive.features.table import table_of
from contrastive.training.train import train

ROWS = 512  # two captions of 256 images


class First(Dataset):
    """The first rows of another dataset."""

    base: Dataset
    rows: int

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Return the first ``rows`` rows of a split."""
        return rows_of(self.base.build(split, purpose=purpose))[: self.rows]


def spec(cache):
    towers = {
        "image": {"encoder": {"type": "efficientnet-lite0"}, "head": {"type": "mlp"}},
        "text": {"encoder": {"type": "minilm"}, "head": {"type": "mlp"}},
    }
    return RunSpec.model_validate(
        {
            "model": {
                "towers": {name: tower | {"frozen": "encoder"} for name, tower in towers.items()},
                "loss": {"type": "infonce"},
            },
            "data": First(base={"type": "emoji", "vendors": ["google"]}, rows=ROWS),
            "training": {"epochs": 3, "batch_size": 128, "cache": cache, "workers": 0},
        }
    )


@pytest.mark.benchmark(group="three epochs over frozen towers")
@pytest.mark.parametrize("cache", ["auto", "off"], ids=["cached", "encoded each epoch"])
def test_three_epochs(benchmark, tmp_path, cache):
    number = itertools.count()

    def fresh():
        folder = tmp_path / str(next(number))
        return (spec(cache), folder / "run"), {"cache": FeatureCache(folder / "cache")}

    benchmark.pedantic(train, setup=fresh, rounds=3, warmup_rounds=1)


def filled(folder, rows, width):
    """Return a store with so many rows, and its keys."""
    rng = np.random.default_rng(0)
    store = Store(folder, {"out_dim": width})
    keys = rng.integers(0, 256, (rows, 32), np.uint8)
    for i in range(0, rows, 10_000):
        some = keys[i : i + 10_000]
        store.append(some, rng.standard_normal((len(some), width), np.float32))
    return store, keys


@pytest.mark.benchmark(group="finding one key among rows")
@pytest.mark.parametrize("rows", [10_000, 100_000, 400_000])
def test_find_one(benchmark, tmp_path, rows):
    _, keys = filled(tmp_path, rows, width=4)
    one = keys[rows // 2 : rows // 2 + 1]

    def find():
        return Store(tmp_path, {"out_dim": 4}).find(one)

    assert benchmark(find).tolist() == [rows // 2]


@pytest.mark.benchmark(group="finding 10,000 keys among rows")
@pytest.mark.parametrize("rows", [10_000, 400_000])
def test_find_many(benchmark, tmp_path, rows):
    _, keys = filled(tmp_path, rows, width=4)
    wanted = keys[:: rows // 10_000]

    def find():
        return Store(tmp_path, {"out_dim": 4}).find(wanted)

    assert (benchmark(find) >= 0).all()


@pytest.mark.benchmark(group="features of a step: 1,024 rows of 768")
@pytest.mark.parametrize("count", [1, 4])
def test_gather(benchmark, tmp_path, monkeypatch, count):
    rows, width = 40_000, 768
    monkeypatch.setattr(parts, "PART_BYTES", rows * width * 4 // count)
    store, keys = filled(tmp_path, rows, width)
    table = table_of(store.find(keys), store.features, width, store.use)
    assert len(table.parts) == count
    order = np.random.default_rng(1).permutation(rows)[:1_024]
    assert benchmark(lambda: table[order]).shape == (1_024, width)
