"""Rows in lists by their nearest centroid (an inverted file), of which faiss looks into some.

It is made in less time than a graph, and compares more rows with a query.

Shapes: Q queries, M rows, C centroids, D wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.indexes.exact import Items
from contrastive.indexes.faiss_codes import (
    LARGEST,
    OpenFaiss,
    check_that,
    checked_ranges,
    faiss_module,
    needed,
    pays,
    ranges_of,
    set_ranges,
    threads_of_torch,
)
from contrastive.indexes.stored_tensors import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LISTS = 4  # times the square root of the rows
SAMPLE = 40  # rows a list, of which centroids are the means
ROUNDS = 8
SEED = 0
ASSIGNED = 4096  # rows at a time
DEPTH = 30  # nearest rows, of which as many are found as recall was measured of ten
BYTES = 8  # of the number of a row


class FaissIvf:
    """Lists of rows that have the same nearest centroid."""

    name = "ivf"
    most_segments = 128
    fewest_rows = 10_000
    efforts = (4, 8, 16, 32, 64, 128, 256)
    """Lists that a search looks into."""

    def pays(self, queries: int, rows: int, wanted: int, effort: int) -> bool:
        """Whether a search takes less time than comparing all rows."""
        return pays(queries, rows, _compared(rows, _lists_of(rows), needed(wanted), effort))

    def build(
        self, pieces: Sequence[Tensor], advance: Callable[[int, str], None] = lambda _rows, _: None
    ) -> dict[str, Tensor]:
        """Return the tensors of a file: of ``[M, D]`` of all pieces."""
        faiss = faiss_module()
        rows, dim = sum(map(len, pieces)), pieces[0].shape[1]
        centroids_CD, ranges_2D = _centroids(pieces, rows, advance), ranges_of(pieces)
        coder = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit)
        set_ranges(faiss, coder, ranges_2D)
        lists: list[Tensor] = []
        codes_MD = torch.empty(rows, dim, dtype=torch.uint8)
        start = 0
        for piece in pieces:
            lists.append(_nearest(piece, centroids_CD))
            stop = start + len(piece)
            with threads_of_torch(faiss):
                codes = coder.sa_encode(piece.contiguous().numpy())
            codes_MD[start:stop] = torch.from_numpy(codes)
            advance(stop // 2 - start // 2, "")
            start = stop
        list_M = torch.cat(lists)
        sizes_C = torch.bincount(list_M, minlength=len(centroids_CD))
        return {
            "centroids": centroids_CD,
            "sizes": sizes_C,
            "ranges": ranges_2D,
            "lists": _packed(sizes_C, list_M.argsort(stable=True), codes_MD),
        }

    def open(self, tensors: dict[str, Tensor], pieces: Sequence[Tensor]) -> OpenIvf:
        """Open what ``build`` returned for the same pieces.

        Raises:
            DataError: these are not what it returns.
            MissingExtra: faiss is not installed.
        """
        faiss = faiss_module()
        rows, dim = sum(map(len, pieces)), pieces[0].shape[1]
        ranges_2D = checked_ranges(tensors, dim)
        centroids_CD = checked(tensors, "centroids", torch.float32, [None, dim])
        sizes_C = checked(tensors, "sizes", torch.int64, [len(centroids_CD)])
        check_that(len(centroids_CD) > 0, "no centroids")
        check_that((centroids_CD.abs() <= LARGEST).all(), "centroids that no vectors have")
        check_that(
            ((sizes_C >= 0) & (sizes_C <= rows)).all() and int(sizes_C.sum()) == rows,
            f"lists that do not have {rows} rows",
        )
        places = _places(sizes_C, dim)
        packed = checked(tensors, "lists", torch.int64, [places[-1].end // BYTES])
        array = packed.contiguous().numpy().view(np.uint8)
        numbers_M = torch.from_numpy(np.concatenate([place.numbers(array) for place in places]))
        check_that(((numbers_M >= 0) & (numbers_M < rows)).all(), "rows that are not there")
        check_that(
            (torch.bincount(numbers_M, minlength=rows) == 1).all(), "rows that are there twice"
        )
        coarse = faiss.IndexFlatIP(dim)
        coarse.add(centroids_CD.contiguous().numpy())
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(
            coarse, dim, len(places), kind, faiss.METRIC_INNER_PRODUCT, False
        )
        set_ranges(faiss, index, ranges_2D)
        index.ntotal = rows
        if hasattr(faiss, "OnDiskInvertedLists"):
            lists = _mapped_lists(faiss, places, array)
            index.replace_invlists(lists, False)
        else:  # on Windows
            lists = None
            for number, place in enumerate(places):
                own = map(faiss.swig_ptr, (place.numbers(array), place.codes(array)))
                index.invlists.add_entries(number, place.size, *own)
        return OpenIvf(faiss, index, rows, (coarse, array, lists))


class OpenIvf(OpenFaiss):
    """Lists that are searched, those of the centroids that are nearest to a query."""

    def parameters(self, depth: int, effort: int) -> Any:
        """Return how many lists are looked into."""
        lists = _looked_into(self.index.nlist, depth, effort)
        return self.faiss.SearchParametersIVF(nprobe=lists)

    def compared(self, depth: int, effort: int) -> int:
        """Return about how many rows are compared: those of the lists, and the centroids."""
        return _compared(self.rows, self.index.nlist, depth, effort)


@dataclass(frozen=True)
class _Place:
    """Where a list lies: the vectors' bytes, then the numbers of its rows, as faiss has it."""

    start: int
    size: int
    dim: int

    @property
    def room(self) -> int:
        """For how many rows there is room, so that the numbers lie at a multiple of their size."""
        return -(-self.size // BYTES) * BYTES

    @property
    def middle(self) -> int:
        return self.start + self.room * self.dim

    @property
    def end(self) -> int:
        return self.middle + self.room * BYTES

    def codes(self, array: np.ndarray) -> np.ndarray:
        return array[self.start : self.start + self.size * self.dim]

    def numbers(self, array: np.ndarray) -> np.ndarray:
        return array[self.middle : self.middle + self.size * BYTES].view(np.int64)


def _places(sizes_C: Tensor, dim: int) -> list[_Place]:
    places: list[_Place] = []
    for size in cast("list[int]", sizes_C.tolist()):
        places.append(_Place(places[-1].end if places else 0, size, dim))
    return places


def _packed(sizes_C: Tensor, order_M: Tensor, codes_MD: Tensor) -> Tensor:
    """Return all lists one behind the other, with the rows in this order."""
    places = _places(sizes_C, codes_MD.shape[1])
    packed = torch.zeros(places[-1].end // BYTES, dtype=torch.int64)
    array = packed.numpy().view(np.uint8)
    start = 0
    for place in places:
        own = order_M[start : start + place.size]
        place.codes(array)[:] = codes_MD[own].flatten().numpy()
        place.numbers(array)[:] = own.numpy()
        start += place.size
    return packed


def _mapped_lists(faiss: Any, places: Sequence[_Place], array: np.ndarray) -> Any:
    """Return lists of faiss that lie where they are, such as in a file that is mapped."""
    lists = faiss.OnDiskInvertedLists()
    lists.this.disown()  # it would unmap what it has not mapped
    lists.nlist, lists.code_size, lists.totsize = len(places), places[0].dim, array.size
    lists.ptr, lists.read_only = faiss.swig_ptr(array), True
    lists.prefetch_nthread = 0  # threads that read lists before they are searched
    for place in places:
        one = faiss.OnDiskOneList()
        one.size, one.capacity, one.offset = place.size, place.room, place.start
        lists.lists.push_back(one)
    return lists


def _lists_of(rows: int) -> int:
    return max(1, min(rows, round(LISTS * math.sqrt(rows))))


def _looked_into(lists: int, depth: int, effort: int) -> int:
    """Return more lists where more rows are wanted than recall was measured with."""
    return min(lists, max(effort, effort * depth // DEPTH))


def _compared(rows: int, lists: int, depth: int, effort: int) -> int:
    """Return about how many rows are compared, and centroids."""
    return _looked_into(lists, depth, effort) * rows // lists + lists


def _centroids(pieces: Sequence[Tensor], rows: int, advance: Callable[[int, str], None]) -> Tensor:
    """Return the directions ``[C, D]`` of means of rows at random (spherical k-means).

    By products of torch, which take a sixth of the time of faiss' k-means.
    """
    lists = _lists_of(rows)
    generator = torch.Generator().manual_seed(SEED)
    chosen_N = torch.randperm(rows, generator=generator)[: lists * SAMPLE].sort().values
    sample_ND = Items(pieces).rows(chosen_N)

    def some() -> Tensor:
        return sample_ND[torch.randperm(len(sample_ND), generator=generator)[:lists]]

    centroids_CD, half = some(), rows - rows // 2
    for number in range(ROUNDS):
        list_N = _nearest(sample_ND, centroids_CD)
        sums_CD = torch.zeros_like(centroids_CD).index_add_(0, list_N, sample_ND)
        empty_C = torch.bincount(list_N, minlength=lists) == 0
        centroids_CD = normalize(torch.where(empty_C[:, None], some(), sums_CD), dim=1)
        advance(half * (number + 1) // ROUNDS - half * number // ROUNDS, "")
    return centroids_CD


def _nearest(rows_MD: Tensor, centroids_CD: Tensor) -> Tensor:
    """Return the number of the nearest centroid of each row: ``[M]``."""
    starts = range(0, len(rows_MD), ASSIGNED)
    return torch.cat([(rows_MD[at : at + ASSIGNED] @ centroids_CD.T).argmax(1) for at in starts])
