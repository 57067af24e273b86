"""What the compiler makes of the shipped kernels, read from their machine code; no GPU is needed.

Whether a tile is good shows there before it shows in a time: registers that do not suffice are
spilled to memory, and a tile that does not fit the tensor cores is multiplied by lesser ones, four
times as slowly, without a word. ``python -m benchmarks.kernels.machine_code`` prints a table,
and ends with 1 if a kernel has a fault. Triton keeps what it has compiled, so again is quick.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import triton
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget

from benchmarks.kernels import signatures
from contrastive.losses.backends.triton import tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
HOPPER = 9, 0
# KB of shared memory: of one program at most, and of all on one processor
PROGRAM_SHARED: dict[tiles.Capability, int] = {(8, 0): 163, HOPPER: 227}
PROCESSOR_SHARED: dict[tiles.Capability, int] = {(8, 0): 164, HOPPER: 228}
REGISTERS = 2**16  # of one processor
WARPS = 64  # on one processor at most


@dataclass(frozen=True)
class Code:
    """The machine code of one kernel, in numbers."""

    name: str
    capability: tiles.Capability
    tile: tuple[int, ...]
    """Rows, columns and depth, as far as the kernel has them."""
    warps: int
    stages: int
    products: bool
    """Whether it multiplies in half precision."""
    registers: int
    """Of each thread."""
    stack: int
    """Bytes of memory that each thread has for what its registers do not hold."""
    shared: int
    """Bytes of shared memory."""
    wgmma: int
    """Instructions of Hopper's tensor cores (HGMMA); each works for four warps."""
    waits: int
    """How many of these are followed by a wait for their result."""
    mma: int
    """Instructions of tensor cores as older GPUs have them (HMMA)."""

    @property
    def resident(self) -> int:
        """How many programs run on one processor at a time, which hide each other's pauses."""
        by_registers = REGISTERS // (-(-self.registers // 8) * 8 * 32 * self.warps)
        by_shared = PROCESSOR_SHARED[self.capability] * 1024 // (self.shared + 1024)
        return min(by_registers, by_shared, WARPS // self.warps)

    def faults(self) -> list[str]:
        """Return what is wrong with it; nothing for a kernel that may be shipped."""
        most = PROGRAM_SHARED[self.capability] * 1024
        old = self.capability < HOPPER
        found = {
            f"spills {self.stack} bytes a thread": self.stack > 0,
            f"takes {self.shared} bytes of shared memory, of {most}": self.shared > most,
            "multiplies without tensor cores": self.products and not (self.wgmma or self.mma),
            "multiplies with mma.sync, not wgmma": self.products and self.mma > 0 and not old,
            "waits for each wgmma": 1 < self.wgmma == self.waits,
        }
        return [fault for fault, there in found.items() if there]


def compiled(build: signatures.Build) -> Code:
    """Compile a kernel and read its machine code."""
    target = GPUTarget("cuda", 10 * build.capability[0] + build.capability[1], 32)
    kernel = cast("Any", triton.compile(build.source(), target=target, options=build.options))
    text = _disassembled(kernel.asm["cubin"])
    usage = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", text)
    assert usage, text[:1000]
    sizes = (build.constexprs.get(size) for size in "RCK")
    return Code(
        build.name,
        build.capability,
        tuple(size for size in sizes if size is not None),
        kernel.metadata.num_warps,
        kernel.metadata.num_stages,
        build.products,
        registers=int(usage[1]),
        stack=int(usage[2]) + int(usage[3]),
        shared=kernel.metadata.shared,
        wgmma=len(re.findall(r"\bHGMMA\.", text)),
        waits=len(re.findall(r"\bHGMMA\..*\bgsb0\b", text)),
        mma=len(re.findall(r"\bHMMA\.", text)),
    )


def builds(capability: tiles.Capability, only: str = "") -> list[signatures.Build]:
    """Return what is shipped for a GPU, each tile at one width.

    Args:
        capability: of the GPU.
        only: a pattern that the name of a kernel must have in it.
    """
    found: dict[str, signatures.Build] = {}
    for build in signatures.builds():
        if build.capability == capability and re.search(only, build.name):
            same = {key: value for key, value in build.constexprs.items() if key != "D"}
            found.setdefault(str((build.fn, build.signature, same, build.options)), build)
    return list(found.values())


def compile_all(capability: tiles.Capability, only: str = "") -> list[Code]:
    """Compile ``builds(capability, only)``."""
    return [compiled(build) for build in builds(capability, only)]


def code_table(codes: Sequence[Code]) -> Table:
    """Return the numbers of some kernels, a row for each."""
    table = Table()
    numbers = "warps", "stages", "registers", "KB", "programs", "spilled", "wgmma", "mma"
    for name in ("GPU", "kernel", "tile", *numbers, "fault"):
        numeric = name in numbers
        table.add_column(name, no_wrap=name != "fault", justify="right" if numeric else "left")
    for code in codes:
        table.add_row(
            "sm_{}{}".format(*code.capability),
            code.name,
            "x".join(map(str, code.tile)),
            *map(str, (code.warps, code.stages, code.registers, f"{code.shared / 1024:.0f}")),
            *map(str, (code.resident, code.stack, code.wgmma, code.mma)),
            "; ".join(code.faults()),
        )
    return table


def main() -> int:
    """Print the table; return how the command ends."""
    parser = argparse.ArgumentParser(description="What the compiler makes of the shipped kernels.")
    parser.add_argument("only", nargs="?", default="", help="a pattern: kernels so named")
    only = parser.parse_args().only
    codes = [code for gpu in tiles.CAPABILITIES for code in compile_all(gpu, only)]
    Console(width=None if sys.stdout.isatty() else 160).print(code_table(codes))
    return int(any(code.faults() for code in codes))


def _disassembled(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [CUOBJDUMP, "--dump-resource-usage", "--dump-sass", file]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
