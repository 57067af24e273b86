"""Which rows have equal values, without an object for each row.

Shapes: N rows, K of a column, D distinct values, Q that differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contrastive.data.column_kinds import Coded, Column, FilePaths, Objects, StoredImages, Strings
from contrastive.data.columns import Columns, Values

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    Name = Callable[[Any], Hashable]
    """What is equal for equal values."""


class Distinct(NamedTuple):
    """Rows that are told apart."""

    first_Q: np.ndarray
    """The first row of each, ascending."""
    which_N: np.ndarray
    """Which of the Q each row is."""

    def several(self) -> list[list[int]]:
        """Return the rows of each."""
        order = np.argsort(self.which_N, kind="stable")
        ends = np.cumsum(np.bincount(self.which_N, minlength=len(self.first_Q)))
        return [each.tolist() for each in np.split(order, ends[:-1])] if len(ends) else []


def distinct(*codes: np.ndarray) -> Distinct:
    """Tell rows apart by some numbers of each, all ``[N]``."""
    same_N = np.zeros(len(codes[0]), np.int64)
    for code in codes:
        _, dense_N = np.unique(code, return_inverse=True)
        _, same_N = np.unique(same_N * len(same_N) + dense_N, return_inverse=True)
    _, first_S, which_N = np.unique(same_N, return_index=True, return_inverse=True)
    order = np.argsort(first_S)
    place_S = np.empty(len(order), np.int64)
    place_S[order] = np.arange(len(order))
    return Distinct(first_S[order], place_S[which_N])


def value_codes(rows: Sequence[dict[str, Any]], key: str, name: Name) -> np.ndarray:
    """Return a number for what each row has under a key, equal for equal values; -1 for none."""
    if isinstance(rows, Columns):
        if key not in rows.columns:
            return np.full(len(rows), -1, np.int64)
        return _codes(rows.columns[key], rows.rows_N, name)
    return _codes(Objects([row.get(key) for row in rows]), np.arange(len(rows)), name)


def _codes(column: Column, rows_K: np.ndarray, name: Name) -> np.ndarray:
    if isinstance(column, Coded):
        codes_D, which_K = np.unique(column.codes_M[rows_K], return_inverse=True)
        none = int((codes_D < 0).sum())
        found_D = np.full(len(codes_D), -1, np.int64)
        found_D[none:] = _codes(column.values, codes_D[none:], name)
        return found_D[which_K]
    if isinstance(column, (FilePaths, StoredImages)):  # of which each stands once
        return rows_K.astype(np.int64)
    values = Values(column, rows_K)
    if isinstance(column, Strings):
        return _of_strings(values)
    known: dict[Hashable, int] = {}
    codes = (-1 if each is None else known.setdefault(name(each), len(known)) for each in values)
    return np.fromiter(codes, np.int64, len(values))


def _of_strings(values: Values) -> np.ndarray:
    """Return numbers of texts; only those whose hash another one has are held and compared."""
    hashes_K = np.fromiter(map(hash, values), np.int64, len(values))
    hashes_D, codes_K, times_D = np.unique(hashes_K, return_inverse=True, return_counts=True)
    alike = (times_D[codes_K] > 1).nonzero()[0]
    known: dict[str, int] = {}
    for place, text in zip(
        alike.tolist(), Values(values.column, values.rows_N[alike]), strict=True
    ):
        codes_K[place] = known.setdefault(text, len(hashes_D) + len(known))
    return codes_K
