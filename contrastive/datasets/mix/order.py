"""Which rows of which dataset a batch of a mix has: a function of the step, the weights and a seed.

Row k of a dataset with the share s is due at time (k + phase) / s, and rows come in the order in
which they are due; with phases of 1/2 that is Webster's method of sharing out seats. After n rows a
dataset with the share s of D has had n * s of them, but for at most 1 + s * D / 2. The phases of
the datasets differ, so that rare ones do not come all at once.

Shapes: D datasets, N usable rows of all, U that an epoch uses, K numbers of one dataset's rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from contrastive.data.row_order import EpochRows, RowOrder
from contrastive.errors import DataError

DEALT_TOGETHER = 1 << 18  # rows that are dealt out at a time, so that little is held


@dataclass(frozen=True)
class MixOrder(RowOrder):
    """Rows of several datasets, each of which is read again when all of it was."""

    names: tuple[str, ...]
    ends: tuple[int, ...]
    """Of the rows of each dataset."""
    weights: tuple[float, ...]
    """None, for shares that are those of the usable rows."""
    orders: tuple[RowOrder, ...]
    """Of each dataset's own rows."""

    def of_epoch(self, rows_N: np.ndarray, *, seed: int, epoch: int, count: int) -> EpochRows:
        """Return the rows of an epoch, which begins where the one before has ended.

        Raises:
            DataError: a dataset has no usable row.
        """
        bounds = [0, *np.searchsorted(rows_N, self.ends).tolist()]
        sizes_D = np.diff(bounds)
        if not sizes_D.all():
            name = self.names[int(sizes_D.argmin())]
            msg = f"{name}: has no usable rows, but a share of each batch; take it out of the mix"
            raise DataError(msg)
        share_D, start = shares_of(self.weights or sizes_D), epoch * count
        which_U = whose(share_D, start, start + count)
        had_D = rows_before(share_D, start).tolist()
        rows_U, passes_U = np.empty(count, rows_N.dtype), np.empty(count, np.int32)
        for d, name in enumerate(self.names):
            mine_U = which_U == d
            first = self.ends[d - 1] if d else 0
            own = rows_N[bounds[d] : bounds[d + 1]] - first
            numbers = range(had_D[d], had_D[d] + int(np.count_nonzero(mine_U)))
            rows, passes = self._of_dataset(d, own, seed_of(seed, name), numbers)
            rows_U[mine_U], passes_U[mine_U] = rows + first, passes
        return EpochRows(rows_U, passes_U)

    def _of_dataset(
        self, d: int, own: np.ndarray, seed: int, numbers: range
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of one dataset by their numbers, and how often each was read before."""
        rows_K = np.empty(len(numbers), own.dtype)
        before_K = np.empty(len(numbers), np.int32)
        size = len(own)
        for number in range(numbers.start // size, -(-numbers.stop // size)):
            first = max(number * size, numbers.start)
            last = min((number + 1) * size, numbers.stop)
            found = self.orders[d].of_epoch(own, seed=seed, epoch=number, count=size)
            here = slice(first - numbers.start, last - numbers.start)
            there = slice(first - number * size, last - number * size)
            rows_K[here] = found.rows_U[there]
            before_K[here] = number if found.passes_U is None else found.passes_U[there]
        return rows_K, before_K


def seed_of(seed: int, name: str) -> int:
    """Return the seed of a dataset's own order."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8]) >> 1


def shares_of(weights: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Return weights as shares of 1."""
    weight_D = np.asarray(weights, np.float64)
    return weight_D / weight_D.sum()


def whose(share_D: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return whose rows ``start`` to ``stop`` of a mix are: ``[stop - start]`` int32."""
    found = np.empty(stop - start, np.int32)
    for first in range(start, stop, DEALT_TOGETHER):
        last = min(first + DEALT_TOGETHER, stop)
        found[first - start : last - start], _ = interleaved(share_D, first, last)
    return found


def interleaved(share_D: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, of rows ``start`` to ``stop`` of a mix, whose each is and its number there."""
    had_D, will_D = rows_before(share_D, start), rows_before(share_D, stop)
    which = np.repeat(np.arange(len(share_D)), will_D - had_D)
    begins_D = np.cumsum(will_D - had_D) - (will_D - had_D)
    return _as_due(share_D, which, np.arange(stop - start) - (begins_D - had_D)[which])


def rows_before(share_D: np.ndarray, count: int) -> np.ndarray:
    """Return how many of the first ``count`` rows of a mix are each dataset's: ``[D]`` int64."""
    datasets = len(share_D)
    # the time after count rows is count, but for D / 2; so these are had for sure
    had_D = np.maximum(np.floor(share_D * (count - datasets / 2)).astype(np.int64) - 2, 0)
    left = count - int(had_D.sum())
    if left <= 0:
        return had_D
    more = np.arange(left)
    which = np.repeat(np.arange(datasets), left)
    due, _ = _as_due(share_D, which, (had_D[:, None] + more).ravel())
    return had_D + np.bincount(due[:left], minlength=datasets)


def _as_due(
    share_D: np.ndarray, which: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of datasets in the order in which they are due."""
    phase_D = (np.arange(len(share_D)) + 0.5) / len(share_D)
    with np.errstate(over="ignore"):  # of a share so small that it is never due
        due = (number + phase_D[which]) / share_D[which]
    order = np.lexsort((which, due))
    return which[order], number[order]
