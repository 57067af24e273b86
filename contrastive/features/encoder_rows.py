"""The features of some samples: found on disk, added there, or held in memory.

Shapes: K distinct samples, N samples, B of a batch, F features.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contrastive.config.amounts import shown_bytes
from contrastive.console import say
from contrastive.features.key_index import heads_of
from contrastive.features.parts import KEY_BYTES, location_of
from contrastive.features.size_bound import SizeBound
from contrastive.features.store import FORMAT, Store
from contrastive.features.table import FeatureTable, table_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

MEMORY = 1 << 20
"""The number of the part that is in memory; no store has so many."""


class DistinctKeys(NamedTuple):
    """Which samples are the same."""

    keys_K: np.ndarray
    """``[K, 32]`` bytes, ascending."""
    first_K: np.ndarray
    """The first sample of each."""
    which_N: np.ndarray
    """Which of the K each sample is; -1 if it cannot be used."""


def distinct_keys(keys_D: np.ndarray, which_N: np.ndarray, usable_N: np.ndarray) -> DistinctKeys:
    """Tell samples apart by their keys ``[D, 32]``, of which each has one."""
    usable = usable_N.nonzero()[0]
    used_D, first = np.unique(which_N[usable], return_index=True)
    keys_U = keys_D[used_D]
    order, starts = _sorted(keys_U)
    inverse = np.empty(len(keys_U), np.int64)
    inverse[order] = starts.cumsum() - 1
    first_K = np.full(int(starts.sum()), len(which_N), np.int64)
    np.minimum.at(first_K, inverse, usable[first])
    of_D = np.full(len(keys_D) + 1, -1, np.int64)
    of_D[used_D] = inverse
    found_N = np.where(usable_N, of_D[which_N], -1)
    return DistinctKeys(keys_U[order[starts]], first_K, found_N)


def _sorted(keys_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of keys, and at which places of it another one begins."""
    heads_U = heads_of(keys_U)
    order = heads_U.argsort(kind="stable")  # a fifth of the time and memory of sorting whole keys
    starts = np.ones(len(order), np.bool_)
    starts[1:] = np.diff(heads_U[order]) != 0
    (alike,) = (~starts).nonzero()
    if (keys_U[order[alike]] != keys_U[order[alike - 1]]).any():
        order = np.ascontiguousarray(keys_U).view(f"S{KEY_BYTES}")[:, 0].argsort(kind="stable")
        starts[1:] = (keys_U[order[1:]] != keys_U[order[:-1]]).any(1)
    return order, starts


class EncoderRows:
    """The features of K samples: on disk; what cannot be written there, in memory."""

    def __init__(
        self,
        folder: Path | None,
        about: dict[str, Any],
        keys_K: np.ndarray,
        *,
        stores: bool = True,
        max_bytes: int | None = None,
    ) -> None:
        """Prepare to look up keys ``[K, 32]`` in the cache in ``folder``.

        Args:
            folder: None holds all in memory.
            about: what decides the encoder's features.
            keys_K: all of them differ.
            stores: whether rows are added on disk.
            max_bytes: of the whole cache, if it is bounded.
        """
        self.width = int(about["out_dim"])
        self.keys_K = keys_K
        self.locations_K = np.full(len(keys_K), -1, np.int64)
        self.unwritten: list[np.ndarray] = []
        """Batches of rows in memory, which are the part ``MEMORY``."""
        self.unwritten_rows = 0
        self.unflushed: list[tuple[np.ndarray, np.ndarray]] = []
        """Which of the K are on disk, and their rows, of which a system's crash may lose some."""
        self.store: Store | None = None
        self.bound: SizeBound | None = None
        self.writes = stores
        if folder is None:
            return
        root = folder / "features"
        with self._told(root):
            self.store = Store.opened(root, about, make=self.writes)
            if self.store is None:
                return
            self.bound = None if max_bytes is None else SizeBound(root, max_bytes)
            if self.store.is_new and (unused := self.store.outdated(FORMAT)):
                tell_once(
                    f"{root}: {shown_bytes(unused)} of features cached by an earlier version are "
                    "not used; to free them: contrastive cache prune --outdated"
                )

    def there(self) -> np.ndarray:
        """Return which of the samples have features: ``[K]``."""
        return self.locations_K >= 0

    def find(self) -> None:
        """Look up rows on disk that are missing; if that fails, nothing is written there either."""
        missing_K = (~self.there()).nonzero()[0]
        if self.store and len(missing_K):
            with self._told(self.store.folder):
                self.locations_K[missing_K] = self.store.find(self.keys_K[missing_K])
                return
            self._stop()
            if not self.there().any():
                self.store = None

    def append(self, which_B: np.ndarray, features_BF: np.ndarray) -> None:
        """Add rows of some of the K samples."""
        if not len(which_B):
            return
        if self.store and self.writes:
            self.unflushed.append((which_B, features_BF))
            with self._told(self.store.folder):
                if self.bound is None or self.bound.make_room(self.store.folder):
                    keys_B = self.keys_K[which_B]
                    self.locations_K[which_B] = self.store.append(keys_B, features_BF)
                    if self.store.is_flushed:
                        self.unflushed.clear()
                    return
                tell_once(self.bound.full_line())
            self._stop()
            return
        self._hold(which_B, features_BF)

    def flush(self) -> None:
        """Have what was added on the disk itself."""
        if self.store and self.writes:
            with self._told(self.store.folder):
                self.store.flush()
                self.unflushed.clear()
                return
            self._stop()

    def table(self, which_N: np.ndarray) -> FeatureTable:
        """Return the rows of samples, by which of the K each is; -1 is none."""
        locations_N = np.append(self.locations_K, -1)[which_N]
        use = self.store.use if self.store else None
        return table_of(locations_N, self._features, self.width, use)

    def _features(self, part: int, rows: int) -> np.ndarray:
        if part == MEMORY or not self.store:
            return np.concatenate(self.unwritten)
        return self.store.features(part, rows)

    def _stop(self) -> None:
        """Write no more; hold in memory what may not have reached the disk."""
        self.writes = False
        for which_B, features_BF in self.unflushed:
            self._hold(which_B, features_BF)
        self.unflushed.clear()

    def _hold(self, which_B: np.ndarray, features_BF: np.ndarray) -> None:
        begin, self.unwritten_rows = self.unwritten_rows, self.unwritten_rows + len(which_B)
        self.unwritten.append(features_BF)
        self.locations_K[which_B] = location_of(MEMORY, 0) | np.arange(begin, self.unwritten_rows)

    @contextmanager
    def _told(self, folder: Path) -> Generator[None]:
        """Go on without the cache where the system refuses something within the block."""
        try:
            yield
        except OSError as error:
            tell_once(
                f"{error.filename or folder}: {error.strerror or error}; these features are not "
                "kept; set CONTRASTIVE_CACHE to a folder that can be written"
            )


@cache
def tell_once(line: str) -> None:
    """Say a line that this process has not said yet."""
    say(line)
