"""The order of rows in shards that do not all fit this machine's copies: window by window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contrastive.data.row_order import EpochRows, RowOrder


@dataclass(eq=False)
class ShardWindows(RowOrder):
    """Shards in an order that is new in each epoch, and rows shuffled among so many shards."""

    shards_N: np.ndarray
    """The shard of each row of the dataset."""
    window: int

    def of_epoch(self, rows_N: np.ndarray, *, seed: int, epoch: int, count: int) -> EpochRows:
        """Return the first ``count`` rows of an epoch."""
        chance = np.random.default_rng((seed, epoch))
        shards_N = self.shards_N[rows_N]
        used = np.bincount(shards_N).nonzero()[0]
        window_of = np.zeros(int(used[-1]) + 1, np.int32)
        window_of[used] = chance.permutation(len(used)) // self.window
        shuffled = chance.permutation(len(rows_N))
        order = np.argsort(window_of[shards_N[shuffled]], kind="stable")
        return EpochRows(rows_N[shuffled[order][:count]])
