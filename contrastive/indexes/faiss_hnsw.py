"""A graph of near rows (HNSW; Malkov and Yashunin, 2018), which faiss builds and searches.

Shapes: Q queries, M rows, D wide, L links of all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contrastive.indexes.faiss_codes import (
    OpenFaiss,
    check_that,
    checked_ranges,
    faiss_module,
    needed,
    pays,
    ranges_of,
    set_ranges,
    threads_of_torch,
    view,
)
from contrastive.indexes.stored_tensors import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LINKS = 32  # of a row, and twice as many on the lowest level
BUILD_EFFORT = 80  # rows near a new one that are looked through for its links
MOST_LEVELS = 32  # of each level, one row of LINKS is on the next
ADDED = 1024  # rows at a time


class FaissHnsw:
    """Graphs of rows, each with links to rows that are near it."""

    name = "hnsw"
    most_segments = 128
    fewest_rows = 10_000
    efforts = (32, 64, 128, 256, 512, 1024)
    """Rows that a search keeps in mind."""

    def pays(self, queries: int, rows: int, wanted: int, effort: int) -> bool:
        """Whether a search takes less time than comparing all rows."""
        return pays(queries, rows, _in_mind(needed(wanted), effort) * LINKS)

    def build(
        self, pieces: Sequence[Tensor], advance: Callable[[int, str], None] = lambda _rows, _: None
    ) -> dict[str, Tensor]:
        """Return the tensors of a file: of ``[M, D]`` of all pieces."""
        faiss = faiss_module()
        rows, dim = sum(map(len, pieces)), pieces[0].shape[1]
        ranges_2D = ranges_of(pieces)
        index, storage = _empty(faiss, dim, ranges_2D)
        index.hnsw.efConstruction = BUILD_EFFORT
        with threads_of_torch(faiss):
            for piece in pieces:
                for start in range(0, len(piece), ADDED):
                    some = piece[start : start + ADDED]
                    index.add(some.contiguous().numpy())
                    advance(len(some), "")
        graph = index.hnsw
        return {
            "codes": torch.from_numpy(faiss.vector_to_array(storage.codes)).view(rows, dim),
            "ranges": ranges_2D,
            "levels": torch.from_numpy(faiss.vector_to_array(graph.levels)),
            "links": torch.from_numpy(faiss.vector_to_array(graph.neighbors)),
            "entry": torch.tensor([graph.entry_point]),
        }

    def open(self, tensors: dict[str, Tensor], pieces: Sequence[Tensor]) -> OpenHnsw:
        """Open what ``build`` returned for the same pieces.

        Raises:
            DataError: these are not what it returns.
            MissingExtra: faiss is not installed.
        """
        faiss = faiss_module()
        rows, dim = sum(map(len, pieces)), pieces[0].shape[1]
        codes_MD = checked(tensors, "codes", torch.uint8, [rows, dim])
        ranges_2D = checked_ranges(tensors, dim)
        levels_M = checked(tensors, "levels", torch.int32, [rows])
        links_L = checked(tensors, "links", torch.int32, [None])
        entry = int(checked(tensors, "entry", torch.int64, [1]))
        check_that(_all_between(levels_M, 1, MOST_LEVELS), "rows of levels that are none")
        links_to_level = _links_to_level(int(levels_M.max()))
        offsets = torch.zeros(rows + 1, dtype=torch.int64)
        torch.cumsum(links_to_level[levels_M.long()], 0, out=offsets[1:])
        check_that(len(links_L) == int(offsets[-1]), f"{len(links_L)} links, not {offsets[-1]}")
        check_that(_all_between(links_L, -1, rows - 1), "links to rows that are not there")
        check_that(0 <= entry < rows and levels_M[entry] == levels_M.max(), "a false entry")
        _check_upper_links(levels_M, links_L, offsets, links_to_level)
        index, storage = _empty(faiss, dim, ranges_2D)
        codes = codes_MD.contiguous().numpy()
        view(storage.codes, faiss, codes.ravel())
        graph = index.hnsw
        for name, array in (
            ("levels", levels_M.numpy()),
            ("offsets", offsets.numpy().astype(np.uint64)),
            ("neighbors", links_L.numpy()),
            ("cum_nneighbor_per_level", links_to_level.numpy().astype(np.int32)),
        ):
            faiss.copy_array_to_vector(array, getattr(graph, name))
        graph.entry_point, graph.max_level = entry, int(levels_M.max()) - 1
        index.ntotal = storage.ntotal = rows
        return OpenHnsw(faiss, index, rows, (codes, storage))


class OpenHnsw(OpenFaiss):
    """A graph that is searched from its entry on, from each row to those that are nearer."""

    def parameters(self, depth: int, effort: int) -> Any:
        """Return how many rows are kept in mind."""
        return self.faiss.SearchParametersHNSW(efSearch=_in_mind(depth, effort))

    def compared(self, depth: int, effort: int) -> int:
        """Return about how many rows are compared: those that the rows in mind have links to."""
        return _in_mind(depth, effort) * LINKS


def _in_mind(depth: int, effort: int) -> int:
    """Return more rows than are wanted: with as many, a twentieth is missed."""
    return max(depth + depth // 2, effort)


def _empty(faiss: Any, dim: int, ranges_2D: Tensor) -> tuple[Any, Any]:
    """Return a graph without rows, and what holds its vectors."""
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexHNSWSQ(dim, kind, LINKS, faiss.METRIC_INNER_PRODUCT)
    storage = faiss.downcast_index(index.storage)
    set_ranges(faiss, storage, ranges_2D)
    index.is_trained = True
    return index, storage


def _all_between(numbers: Tensor, least: int, most: int) -> bool:
    lowest, highest = numbers.aminmax()
    return int(lowest) >= least and int(highest) <= most


def _links_to_level(levels: int) -> Tensor:
    """Return how many places for links a row of 0, 1, 2, ... levels has."""
    levels_L = torch.arange(levels + 1)
    return (levels_L + 1) * LINKS * (levels_L > 0)


def _check_upper_links(
    levels_M: Tensor, links_L: Tensor, offsets: Tensor, links_to_level: Tensor
) -> None:
    """Check that rows on a level have links to rows that are on it: others have none there.

    Raises:
        DataError: they have others.
    """
    for level in range(1, len(links_to_level) - 1):
        rows = (levels_M > level).nonzero()[:, 0]
        first = offsets[rows] + links_to_level[level]
        own = links_L[(first[:, None] + torch.arange(LINKS)).flatten()]
        own = own[own >= 0].long()
        check_that((levels_M[own] > level).all(), "links to rows that are not on their level")
