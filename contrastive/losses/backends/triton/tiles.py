"""How much a kernel takes at once: a table for each GPU, so that nothing is tuned at run time.

A tile of rows x columns logits is what one program makes; it goes through the width in steps of
``depth``. Wide tiles read less, two small ones on one processor hide each other's epilogue. On an
H200 the second counted more at widths of 512, 768 and 1024: 128 x 128 took 4 to 6 % less than
128 x 256, for the sigmoid loss with 8 warps 12 to 19 % less than 256 x 128; 4 stages leave room for
one program and were slower everywhere.

Nothing here imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kernel = Literal["sums", "group_sums", "peaks", "weigh", "complete", "sigmoid"]
Number = Literal["bf16", "fp16", "fp32"]
Capability = tuple[int, int]

type_bytes: dict[Number, int] = {"bf16": 2, "fp16": 2, "fp32": 4}

SIZES: tuple[tuple[Number, int], ...] = (
    ("bf16", 512),
    ("bf16", 1024),
    ("fp16", 512),
    ("fp32", 512),
)
KERNELS: tuple[Kernel, ...] = ("sums", "group_sums", "peaks", "weigh", "complete", "sigmoid")
WIDEST = 4096  # the kernels for single rows hold a whole row
PARTIAL_ROWS = 2**14  # rows whose sums of tiles are held at once: 134 MB for 128k columns
PARTIAL_BYTES = 2**28
LOW_MEMORY_BYTES = 64 * 2**20
ONE_CHUNK_BYTES = 512 * 2**20
CHUNK_BYTES = 2**30
MOST_CHUNK_BYTES = 2**31  # of one wave, however many columns there are
ENOUGH_ROWS = 2**13


@dataclass(frozen=True)
class Tile:
    """What one program makes, and how."""

    rows: int
    columns: int
    depth: int
    """How much of the width is multiplied in one step."""
    warps: int
    stages: int
    """How many steps are on their way from memory at once."""

    def memory(self, number: Number) -> int:
        """Return the bytes of shared memory that the operands take."""
        return (self.rows + self.columns) * self.depth * self.stages * type_bytes[number]


@dataclass(frozen=True)
class Shipped:
    """One entry of the table, with a width for which it is taken."""

    capability: Capability
    kernel: Kernel
    number: Number
    width: int
    tile: Tile


_SQUARE = Tile(128, 128, 64, 4, 3)
_SQUARE_8 = Tile(128, 128, 64, 8, 3)
_AMPERE = Tile(128, 128, 32, 8, 4)
_SMALL = Tile(64, 128, 32, 4, 3)  # 36 KB: any GPU has as much
_SMALL_8 = Tile(64, 128, 32, 8, 3)
_SHALLOW_8 = Tile(128, 128, 32, 8, 3)
_SINGLE = Tile(128, 64, 32, 8, 2)  # fp32 products have no tensor cores, but many registers
_SINGLE_SHALLOW = Tile(128, 64, 16, 8, 2)  # 32 deep, positives spill (Triton 3.9)
# what is for few tiles loops over them, and its counters come on top: 128 rows spill (Triton 3.8)
_FEW = Tile(64, 64, 32, 8, 2)
_PEAKS = Tile(64, 64, 32, 4, 2)
RESCALE = Tile(64, 128, 0, 4, 1)  # nothing is multiplied: it reads, scales and writes

# up to which width, and the tile; the last entry is for the rest
_HALF: dict[tuple[Capability, Kernel], tuple[tuple[int, Tile], ...]] = {
    ((9, 0), "sums"): ((WIDEST, _SQUARE),),
    # as large as those of sums; positives need registers, so fewer logits for each thread
    ((9, 0), "group_sums"): ((WIDEST, _SHALLOW_8),),
    ((9, 0), "weigh"): ((WIDEST, _SQUARE),),
    ((9, 0), "sigmoid"): ((WIDEST, _SQUARE_8),),
    ((8, 0), "sums"): ((WIDEST, _AMPERE),),
    ((8, 0), "group_sums"): ((WIDEST, _AMPERE),),
    ((8, 0), "weigh"): ((WIDEST, _AMPERE),),
    ((8, 0), "sigmoid"): ((WIDEST, _AMPERE),),
}
CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0))


def tile(kernel: Kernel, *, capability: Capability, number: Number, width: int) -> Tile:
    """Return the tile of a kernel.

    Args:
        kernel: which.
        capability: of the GPU.
        number: the type of the products.
        width: D, of the embeddings.
    """
    if kernel == "peaks" and number != "fp32":
        return _PEAKS
    if kernel in {"peaks", "complete"}:
        return _FEW
    if number == "fp32":
        return _SINGLE_SHALLOW if kernel == "group_sums" else _SINGLE
    small = _SMALL_8 if kernel == "group_sums" else _SMALL
    entries = _HALF.get((capability, kernel), ((WIDEST, small),))
    return next((found for most, found in entries if width <= most), entries[-1][1])


def chunk_rows(width: int, rows: int, columns: int, *, number: Number, processors: int) -> int:
    """Return how many rows of G are made at once, so that the products with it fill the GPU.

    All, while G fits ``ONE_CHUNK_BYTES``. Else tiles of 128 x 256 of ``s G b`` are to be a whole
    number for each of the GPU's processors, since all take equally long, and rows at least
    ``ENOUGH_ROWS`` (an H200 multiplies 4,096 rows 8 % slower), in ``CHUNK_BYTES``. One such wave
    may have ``MOST_CHUNK_BYTES``, but 1,024 rows in any case. With 132 processors and 32,768
    columns: 8448, 11264, 8448 rows for widths 512, 768, 1024.
    """
    row_bytes = columns * type_bytes[number]
    if rows * row_bytes <= ONE_CHUNK_BYTES:
        return rows
    across = -(-width // 256)
    most = MOST_CHUNK_BYTES // (128 * row_bytes)
    wave = 128 * max(8, min(66, processors // across, most))
    waves = min(-(-ENOUGH_ROWS // wave), max(1, CHUNK_BYTES // (wave * row_bytes)))
    return wave * waves


def partial_rows(
    tile: Tile, columns: int, *, most: int, of_columns: bool = True, groups: bool = False
) -> int:
    """Return for how many rows the sums of tiles are held before they are added up.

    Those of a row of tiles, R x C each, take ``4 k (R ceil(M / C) + M)`` bytes for M columns, the
    second term where columns are summed, and k = 2 in groups, else 1. So many rows of tiles as take
    ``most`` bytes, one at least, and ``PARTIAL_ROWS`` rows at most: memory does not grow with N.
    """
    across = -(-columns // tile.columns)
    size = 4 * (1 + groups) * (tile.rows * across + columns * of_columns)
    return tile.rows * max(1, min(PARTIAL_ROWS // tile.rows, most // size))


def low_memory_columns(rows: int, number: Number) -> int:
    """Return how many columns of G are made at once in little memory, for chunks of ``rows``."""
    return max(1024, LOW_MEMORY_BYTES // (rows * type_bytes[number]) // 128 * 128)


def shipped() -> Iterator[Shipped]:
    """Return the table: a few widths, numbers of each type."""
    for capability in CAPABILITIES:
        for kernel in KERNELS:
            for number, width in SIZES:
                found = tile(kernel, capability=capability, number=number, width=width)
                yield Shipped(capability, kernel, number, width, found)
