"""Vectors of a byte a number, as faiss' structures hold them, and what faiss is called with.

No file of faiss' own is read, since faiss checks little of one: what a structure is made of lies in
tensors, which are checked before faiss gets them. Vectors are bytes because any bytes will do: each
stands for a number between two that are checked. 16 bits may stand for none, and a score that is no
number crashes the search of a graph (seen with 1.11 and 1.13).

Shapes: Q queries, M rows, D wide, K candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.config.extras import require
from contrastive.errors import DataError
from contrastive.indexes.stored_tensors import checked

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy as np

MORE = 8  # rows beyond twice the wanted ones: the order by bytes is not quite the exact one
WIDEST_RANGE = 4.0  # of a number of a vector of length 1, with what rounding adds
LARGEST = 2.0  # of a number of a query or a centroid
MANY = 16  # queries
DEEPER = 4  # times as many, where conditions leave too few


def faiss_module() -> Any:
    """Import faiss.

    Raises:
        MissingExtra: it is not installed.
    """
    return require("faiss", extra="faiss")


@contextmanager
def threads_of_torch(faiss: Any) -> Generator[None]:
    """Let faiss use as many threads as torch does: it has an OpenMP of its own."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def ranges_of(pieces: Sequence[Tensor]) -> Tensor:
    """Return the least of each number, and how wide its range is: ``[2, D]``."""
    least_D = torch.stack([piece.amin(0) for piece in pieces]).amin(0)
    most_D = torch.stack([piece.amax(0) for piece in pieces]).amax(0)
    return torch.stack([least_D, most_D - least_D])


def set_ranges(faiss: Any, index: Any, ranges_2D: Tensor) -> None:
    """Give an index with a scalar quantizer the ranges that training it would find."""
    faiss.copy_array_to_vector(ranges_2D.numpy().ravel().copy(), index.sq.trained)
    index.is_trained = True


def check_that(holds: bool | Tensor, problem: str) -> None:
    """Check a promise of a file.

    Raises:
        DataError: it does not hold.
    """
    if not bool(holds):
        raise DataError(problem)


def checked_ranges(tensors: dict[str, Tensor], dim: int) -> Tensor:
    """Return the ranges ``[2, D]``.

    Raises:
        DataError: they are not such.
    """
    ranges_2D = checked(tensors, "ranges", torch.float32, [2, dim])
    check_that((ranges_2D.abs() <= WIDEST_RANGE).all(), "ranges that no vectors have")
    return ranges_2D


def view(vector: Any, faiss: Any, array: np.ndarray) -> None:
    """Let a vector of faiss be these bytes, which stay where they are.

    Whoever calls keeps the array as long as the vector.
    """
    vector.is_owned = False
    vector.view_data = vector.c_ptr = faiss.swig_ptr(array)
    vector.view_size = vector.c_size = array.size


def needed(wanted: int) -> int:
    """Return how many rows have the wanted ones among them, by their bytes."""
    return 2 * wanted + MORE


def pays(queries: int, rows: int, compared: int) -> bool:
    """Whether to compare rows here and there takes less time than to compare all in order.

    As measured: a row takes twice as long if there is one query, eight times if there are many,
    whose scores are one product.
    """
    return compared * (2 if queries < MANY else 8) <= rows


class OpenFaiss(ABC):
    """A structure of faiss that is searched."""

    def __init__(self, faiss: Any, index: Any, rows: int, kept: object) -> None:
        """Search an index of faiss; ``kept`` is what it has views of."""
        self.faiss, self.index, self.rows, self.kept = faiss, index, rows, kept

    @abstractmethod
    def parameters(self, depth: int, effort: int) -> Any:
        """Return what faiss is told for a search of the ``depth`` nearest."""

    @abstractmethod
    def compared(self, depth: int, effort: int) -> int:
        """Return about how many rows such a search compares with a query."""

    def candidates(
        self, queries_QD: Tensor, wanted: int, allowed_M: Tensor | None, effort: int
    ) -> tuple[Tensor, Tensor]:
        """Return scores and numbers of candidates ``[Q, K]``, more than twice those wanted.

        Where conditions leave some of the rows, so many more are looked for that enough of them
        meet the conditions. A query gets none if none near it do, or if it is not of length 1.
        """
        most = min(needed(wanted) + effort, self.rows)
        many = self.rows if allowed_M is None else int(allowed_M.sum())
        scores_QK = torch.full((len(queries_QD), most), -torch.inf)
        numbers_QK = torch.full((len(queries_QD), most), -1)
        left_Q = (queries_QD.abs() <= LARGEST).all(1).nonzero()[:, 0]
        depth = min(-(-needed(wanted) * self.rows // max(many, 1)), self.rows)
        while len(left_Q) and (allowed_M is None or self.compared(depth, effort) <= many):
            scores, numbers = self._nearest(queries_QD[left_Q], max(depth, most), depth, effort)
            if allowed_M is not None:
                scores.masked_fill_(~allowed_M[numbers.clamp_min(0)], -torch.inf)
            scores, at = scores.topk(most)
            enough = (scores > -torch.inf).sum(1) >= min(wanted, many)
            if allowed_M is None:
                enough.fill_(True)
            scores_QK[left_Q[enough]] = scores[enough]
            numbers_QK[left_Q[enough]] = numbers.gather(1, at)[enough]
            left_Q, depth = left_Q[~enough], min(depth * DEEPER, self.rows)
        return scores_QK, numbers_QK

    def _nearest(
        self, queries_QD: Tensor, most: int, depth: int, effort: int
    ) -> tuple[Tensor, Tensor]:
        with threads_of_torch(self.faiss):
            scores, numbers = self.index.search(
                queries_QD.contiguous().numpy(), most, params=self.parameters(depth, effort)
            )
        numbers_QK = torch.from_numpy(numbers)
        return torch.from_numpy(scores).masked_fill_(numbers_QK < 0, -torch.inf), numbers_QK
