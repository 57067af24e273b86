"""Features of samples, read from the parts of a store as they are asked for.

Shapes: N samples, M rows of a part, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from contrastive.features.parts import location_of, split_locations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from contrastive.data.storage.file_locks import InUse


@dataclass(frozen=True)
class FeatureTable:
    """Features of N samples, read from disk as they are asked for."""

    parts: tuple[np.ndarray, ...]
    """Features ``[M, F]``, mapped into memory; in memory, if some could not be written."""
    locations_N: np.ndarray
    """Where each sample's are: the part, and in the low bits the row in it; -1 if it is bad."""
    use: InUse | None = None
    """Keeps other processes from deleting what is mapped."""

    def __len__(self) -> int:
        return len(self.locations_N)

    def __getitem__(self, indices: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Return ``[len(indices), F]`` in fp32 on the CPU."""
        rows = self.locations_N[np.asarray(indices)]
        assert (rows >= 0).all(), "a bad sample has no features"
        if len(self.parts) == 1:
            return torch.as_tensor(self.parts[0][rows])
        parts, rows = split_locations(rows)
        found = np.empty((len(rows), self.parts[0].shape[1]), np.float32)
        order = parts.argsort(kind="stable")
        ends = np.searchsorted(parts[order], np.arange(len(self.parts) + 1))
        for number in np.flatnonzero(np.diff(ends)).tolist():
            which = order[ends[number] : ends[number + 1]]
            found[which] = self.parts[number][rows[which]]
        return torch.from_numpy(found)

    @property
    def good(self) -> np.ndarray:
        """``[N]`` booleans: which samples have features."""
        return self.locations_N >= 0


def table_of(
    locations_N: np.ndarray,
    features_of: Callable[[int, int], np.ndarray],
    width: int,
    use: InUse | None,
) -> FeatureTable:
    """Return a table of the parts that are needed, numbered anew.

    Args:
        locations_N: as in the store.
        features_of: gives the features of a part, by its number and the rows that it has to have.
        width: features of a row, F.
        use: as of the table.
    """
    parts_N, rows_N = split_locations(locations_N)
    maps: list[np.ndarray] = []
    numbered_N = np.full(len(locations_N), -1, np.int64)
    for number in np.unique(parts_N[locations_N >= 0]).tolist():
        here = parts_N == number
        numbered_N[here] = location_of(len(maps), 0) | rows_N[here]
        maps.append(features_of(number, int(rows_N[here].max()) + 1))
    return FeatureTable(tuple(maps) or (np.zeros((0, width), np.float32),), numbered_N, use)
