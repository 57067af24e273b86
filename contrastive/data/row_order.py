"""In which order training reads the rows of a built dataset; a permutation of all, if it says none.

Shapes: N usable rows, U of them that an epoch uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class EpochRows(NamedTuple):
    """The rows of an epoch, in order."""

    rows_U: np.ndarray
    passes_U: np.ndarray | None = None
    """How often each row was read before, which augmentation draws from; the epoch if None."""


class RowOrder(ABC):
    """An order of the rows of a dataset, held by its ``Columns``: a function of its arguments.

    It knows nothing of ranks and workers, who share the batches that are cut of it.
    """

    @abstractmethod
    def of_epoch(self, rows_N: np.ndarray, *, seed: int, epoch: int, count: int) -> EpochRows:
        """Return the first ``count`` rows of an epoch, of the usable ones ``rows_N``, ascending.

        ``count`` is the same in every epoch of a run, and at most N.
        """


class Shuffled(RowOrder):
    """All rows in a permutation that is new in each epoch; those left over differ, too."""

    def of_epoch(self, rows_N: np.ndarray, *, seed: int, epoch: int, count: int) -> EpochRows:
        """Return the first ``count`` of all rows, shuffled."""
        return EpochRows(rows_N[permutation(seed, epoch, len(rows_N))][:count])


def order_of(rows: Sequence[Any]) -> RowOrder:
    """Return the order that a built dataset asks for; of any other, ``Shuffled``."""
    return getattr(rows, "order", None) or Shuffled()


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of an epoch, a function of its arguments alone."""
    order = np.arange(size, dtype=np.int32 if size < 1 << 31 else np.int64)
    np.random.default_rng((seed, epoch)).shuffle(order)  # to the order that permutation(size) has
    return order
