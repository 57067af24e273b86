"""The fused kernels: in Triton's interpreter, in processes of their own, since it is all or none.

What runs there is in ``tests/interpreted``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive.losses.backends.triton import tiles

INTERPRETED = Path(__file__).parent / "interpreted"
SMEM = {(8, 0): 163 * 1024, (9, 0): 227 * 1024}

triton = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("triton"), reason="needs Triton"
)


@triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "marked",
    [
        "not nightly",
        # each setting has its case in the one before; here are all pairs of settings
        pytest.param("nightly", marks=pytest.mark.nightly),
    ],
)
def test_kernels_in_the_interpreter(marked):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"),
            *("-m", marked, *map(str, INTERPRETED.glob("*.py"))),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=INTERPRETED.parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@triton
def test_losses_are_imported_without_triton_and_fused_ones_need_a_gpu():
    code = """
import sys
from contrastive.losses.execution import infonce
import contrastive.losses.backends.triton.tiles
assert not any(name.partition(".")[0] == "triton" for name in sys.modules)

import torch
a = torch.ones(2, 3)
try:
    infonce(a, a, log_scale=torch.tensor(0.0), execution="fused")
except ValueError as error:
    print(error)
"""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert "fused losses need a GPU" in done.stdout, done.stderr


def test_every_shipped_tile_fits_its_gpu():
    for shipped in tiles.shipped():
        tile = shipped.tile
        assert tile.memory(shipped.number) <= SMEM[shipped.capability]
        for size in (tile.rows, tile.columns, tile.depth, tile.warps):
            assert size & (size - 1) == 0
        assert min(tile.rows, tile.columns, tile.depth) >= 16


@pytest.mark.parametrize("number", tiles.type_bytes)
@pytest.mark.parametrize("kernel", tiles.KERNELS)
def test_an_unknown_gpu_gets_a_tile_that_fits_any(kernel, number):
    for width in (1, 512, 4096, 10_000):
        found = tiles.tile(kernel, capability=(12, 1), number=number, width=width)
        assert found.memory(number) <= 64 * 1024


def rows_of(width, n=2**16, m=2**15, *, processors):
    return tiles.chunk_rows(width, n, m, number="bf16", processors=processors)


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_chunks_fill_the_gpu(width):
    """A product of the gradients has a program for each 128 rows and 256 columns: whole waves."""
    processors, columns = 132, -(-width // 256)
    programs = rows_of(width, processors=processors) // 128 * columns
    wave = processors // columns * columns
    assert programs % wave == 0
    assert processors - columns < wave <= processors


@pytest.mark.parametrize("width", [1, 64, 2048, 4096])
def test_chunks_are_whole_tiles_and_not_small(width):
    for processors in (1, 46, 108, 132, 192):
        for m in (2**15, 2**18):
            rows = rows_of(width, m=m, processors=processors)
            assert rows % 128 == 0
            assert rows >= 1024
            assert rows >= tiles.ENOUGH_ROWS or m > 2**15


def test_a_chunk_of_many_columns_is_not_large():
    for m in (2**17, 2**20):
        rows = rows_of(512, n=2**20, m=m, processors=132)
        assert rows * m * 2 <= tiles.MOST_CHUNK_BYTES


def test_one_chunk_is_enough_while_it_is_small():
    assert rows_of(768, 2**14, 2**14, processors=132) == 2**14
    assert rows_of(768, 2**14 + 1, 2**14, processors=132) < 2**14


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_blocks_of_low_memory_are_small(width):
    rows = rows_of(width, processors=132)
    columns = tiles.low_memory_columns(rows, "bf16")
    assert columns % 128 == 0
    assert rows * columns * 2 <= tiles.LOW_MEMORY_BYTES


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("columns", [1, 5000, 2**15, 2**20])
def test_sums_of_tiles_are_held_in_so_many_bytes(columns, groups):
    tile = tiles.tile("sums", capability=(9, 0), number="bf16", width=512)
    for most in (tiles.LOW_MEMORY_BYTES, tiles.PARTIAL_BYTES):
        rows = tiles.partial_rows(tile, columns, most=most, groups=groups)
        down, across = rows // tile.rows, -(-columns // tile.columns)
        assert rows == down * tile.rows
        assert 4 * (1 + groups) * (across * rows + down * columns) <= most
        assert rows == tiles.PARTIAL_ROWS or most < 2 * 4 * (1 + groups) * (
            across * rows + down * columns
        )
