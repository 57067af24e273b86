"""What the feature cache saves: three epochs over frozen towers, cached against encoded anew.

Both start from nothing; the cached run pays for its one encoding. Run with ``make bench``: the
table's column in brackets is the ratio to the faster one.
"""

from __future__ import annotations

import itertools

import pytest

from contrastive import RunSpec
from contrastive.data.samples import Samples, rows_of
from contrastive.datasets import Dataset, Purpose
from contrastive.features.cache import FeatureCache
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
