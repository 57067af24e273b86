"""A block of rows and columns of the logit matrix, and how large the blocks are.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch

from contrastive.losses.backends.triton import tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Precision = Literal["ieee", "tf32x3", "tf32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NUMBERS: dict[torch.dtype, tiles.Number] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
}


@dataclass(frozen=True)
class Pairs:
    """Some rows, some columns, and what they are to each other; see ``labels.PairLabels``.

    With ids, both sides are sorted by them, see ``order``.
    """

    a: Tensor
    b: Tensor
    kind: str
    offset: int
    """Row i is matched with column i + offset; with ids, it is added to the next three."""
    first: Tensor | None = None
    """``[N]`` int32: the first column with the id of a row."""
    last: Tensor | None = None
    """``[N]`` int32: the column after the last one."""
    match: Tensor | None = None
    """``[N]`` int32: the column that a row is matched with, of kind ``masked``; in groups, the one
    that is the row itself and takes no part, if there is one."""
    row_count: Tensor | None = None
    """``[N]`` fp32: how many positives a row has; of groups only."""
    column_count: Tensor | None = None

    def block(self, chosen: slice, columns: slice | None = None) -> Pairs:
        """Return the pairs of some rows with some columns."""
        columns = slice(0, len(self.b)) if columns is None else columns
        return replace(
            self,
            a=self.a[chosen],
            b=self.b[columns],
            first=_some(self.first, chosen),
            last=_some(self.last, chosen),
            match=_some(self.match, chosen),
            row_count=_some(self.row_count, chosen),
            column_count=_some(self.column_count, columns),
            offset=self.offset + (chosen.start if self.first is None else 0) - columns.start,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns."""
        return len(self.a), len(self.b)

    def buffer(self, size: int | tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return new memory on the device."""
        return torch.empty(size, dtype=dtype, device=self.a.device)


@dataclass(frozen=True)
class How:
    """The choices that change speed and memory, not results."""

    rows: int
    """Rows of G made at once; if 0, from the table."""
    columns: int
    """Columns of G made at once; if 0, all."""
    partial_bytes: int
    """Of the sums of tiles, before they are added up; see ``tiles.partial_rows``."""
    precision: Precision
    """How a kernel multiplies fp32; a Triton ``input_precision``."""
    tile: tuple[int, ...]
    """The fields of a ``Tile`` for all kernels; if empty, from the table."""

    @classmethod
    def of(cls, numbers: Sequence[int]) -> How:
        """Return the choices from what an operator takes."""
        rows, columns, partial_bytes, precision, *tile = numbers
        return cls(rows, columns, partial_bytes, PRECISIONS[precision], tuple(tile))

    @property
    def numbers(self) -> list[int]:
        """The choices as an operator takes them."""
        precision = PRECISIONS.index(self.precision)
        return [self.rows, self.columns, self.partial_bytes, precision, *self.tile]

    def tile_of(self, kernel: tiles.Kernel, pairs: Pairs) -> tiles.Tile:
        """Return the tile of a kernel."""
        if self.tile:
            return tiles.Tile(*self.tile)
        a = pairs.a
        capability = torch.cuda.get_device_capability(a.device) if a.is_cuda else (0, 0)
        return tiles.tile(
            kernel,
            capability=capability,
            number=NUMBERS[a.dtype],
            width=a.shape[1],
        )

    def chunk(self, pairs: Pairs) -> int:
        """Return how many rows of G are made at once."""
        return self.rows or chunk_rows(pairs.a, len(pairs.b), pairs.a.dtype)

    def summed_rows(self, pairs: Pairs, *, columns: bool) -> int:
        """Return of how many rows the sums of tiles are held at once, with or without columns'."""
        rows = tiles.partial_rows(
            self.tile_of("sums", pairs),
            len(pairs.b),
            most=self.partial_bytes,
            of_columns=columns,
            groups=pairs.kind == "groups",
        )
        return min(self.rows, rows) if self.rows else rows


def _some(x: Tensor | None, chosen: slice) -> Tensor | None:
    return None if x is None else x[chosen]


def slices(n: int, size: int) -> list[slice]:
    """Return how n things are taken ``size`` at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def chunk_rows(a: Tensor, m: int, dtype: torch.dtype) -> int:
    """Return how many rows of G, with m columns, are best made at once on the device of ``a``."""
    if not a.is_cuda:
        return 1024
    n, width = a.shape
    return tiles.chunk_rows(width, n, m, number=NUMBERS[dtype], processors=processors(a.device))


def processors(device: torch.device) -> int:
    """Return how many processors a GPU has."""
    properties = cast("Any", torch.cuda.get_device_properties(device))
    return int(properties.multi_processor_count)


def padded(m: int) -> int:
    """Return the distance of two rows of a matrix with m columns."""
    return -(-m // 16) * 16


def tiles_of(pairs: Pairs, tile: tiles.Tile) -> tuple[int, int]:
    """Return how many tiles are on top of each other, and side by side."""
    n, m = pairs.shape
    return -(-n // tile.rows), -(-m // tile.columns)
