"""What the machine gives at best, before anything is compared: bare products and a copy."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.losses.timing import Clock

CALLS = 7


def ceilings(
    device: str, dtype: torch.dtype, *, rows: int, widths: list[int]
) -> list[dict[str, Any]]:
    """Return medians for a square product, a copy, and the products that the losses are made of.

    Args:
        device: cpu or cuda.
        dtype: of the operands.
        rows: N of the products of all pairs.
        widths: D of them.
    """
    clock = Clock(device)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    def median(run: Any) -> float:
        run()
        return statistics.median(clock.ms(run) for _ in range(CALLS))

    def product(what: str, m: int, k: int, n: int) -> dict[str, Any]:
        x, y = random(m, k), random(k, n)
        out = torch.empty(m, n, device=device, dtype=dtype)
        ms = median(lambda: torch.mm(x, y, out=out))
        return {"what": what, "m": m, "k": k, "n": n, "ms": ms, "tflops": 2e-9 * m * k * n / ms}

    def copy(size: int) -> dict[str, Any]:
        source = torch.ones(size, dtype=torch.int8, device=device)
        target = torch.empty_like(source)
        ms = median(lambda: target.copy_(source))
        return {"what": "copy", "bytes": size, "ms": ms, "gb_per_s": 2e-6 * size / ms}

    side = 8192 if device == "cuda" else 2048
    found = [product("square product", side, side, side), copy(2**32 if clock.cuda else 2**28)]
    for d in widths:
        chunk = min(rows, 128 * max(8, min(66, 132 // -(-d // 256))))  # fills 132 processors
        found.append(product("all logits", rows, d, rows))
        found.append(product("gradient of a chunk of a", chunk, rows, d))
        found.append(product("gradient of b from a chunk", rows, chunk, d))
    return found
