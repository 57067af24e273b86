"""From how many pairs an execution beats ``eager``; ``losses/auto_execution.py`` has them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.losses.timing import paired_ratios
from contrastive.losses.auto_execution import LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator

EXECUTIONS = ("fused", "chunked")
FILE = "contrastive/losses/auto_execution.py"
LEAST_WIDTH = 256  # D of the smallest models; below, a run only tries whether all works


@dataclass(frozen=True)
class Crossing:
    """Where one execution comes to be faster than ``eager``, for one kind of batch."""

    execution: str
    kind: str
    dtype: str
    least: float
    """It is slower at so many pairs, as a power of two; 0 if it is faster at all sizes."""
    most: float
    """It is faster from so many pairs on; infinite if it is not at any size."""

    @property
    def between(self) -> float | None:
        """The middle of the two, or None if one side is not known."""
        return (self.least + self.most) / 2 if self.least and math.isfinite(self.most) else None


def crossings(data: dict[str, Any]) -> Iterator[Crossing]:
    """Return what the speed section has of forward and backward on unit features."""
    cases = [x for x in data["speed"] if x["mode"] == "both" and not x["raw"]]
    kinds = dict.fromkeys((x["loss"], x["d"], x["dtype"], x["ids"]) for x in cases)
    for execution in EXECUTIONS:
        for loss, d, dtype, ids in kinds:
            here = [
                x
                for x in cases
                if (x["loss"], x["d"], x["dtype"], x["ids"]) == (loss, d, dtype, ids)
            ]
            ratios = [(x["n"], paired_ratios(x["rounds"], execution, "eager")) for x in here]
            known = sorted((2 * math.log2(n), ratio[0]) for n, ratio in ratios if ratio)
            if known:
                slower = [pairs for pairs, ratio in known if ratio >= 1]
                least = max(slower, default=0.0)
                most = min((pairs for pairs, _ in known if pairs > least), default=math.inf)
                yield Crossing(
                    execution, f"{loss}, D = {d}, {dtype}, ids {ids}", dtype, least, most
                )


def threshold_lines(data: dict[str, Any]) -> Iterator[str]:
    """Return a line for each kind of batch, and one for each constant."""
    device = data["options"]["device"]
    found = list(crossings(data))
    if not found:
        yield "no threshold: no execution was timed in the same rounds as eager"
        return
    for x in found:
        if not x.least:
            what = f"is faster at all sizes, from 2^{x.most:.1f} pairs"
        elif math.isinf(x.most):
            what = f"is slower at all sizes, up to 2^{x.least:.1f} pairs"
        else:
            what = f"is faster from 2^{x.most:.1f} pairs, slower up to 2^{x.least:.1f}"
        yield f"{x.execution} ({x.kind}) {what}"
    if max(data["options"]["widths"]) < LEAST_WIDTH:
        yield f"these widths are below {LEAST_WIDTH}, which no model has: nothing to set"
        return
    now = f"it is 2**{math.log2(LARGE[device]):.0f}"
    for execution in EXECUTIONS:
        # what `auto` takes: products in half precision are for the fused kernels, on a GPU
        half = [x for x in found if x.execution == execution and x.dtype != "fp32"]
        rest = [x for x in found if x.execution == execution and x.dtype == "fp32"]
        taken = half if execution == "fused" else rest if device == "cuda" else half + rest
        known = [x.between for x in taken if x.between is not None]
        if known:
            middle = round(statistics.median(known))
            span = f"kinds from 2^{min(known):.1f} to 2^{max(known):.1f}"
            yield f'set LARGE["{device}"] = 2**{middle} in {FILE} for {execution} ({now}; {span})'
        elif taken:
            bound = "no kind crosses within the sizes"
            if not any(x.least for x in taken):
                bound = f"at most 2**{min(x.most for x in taken):.0f}"
            elif all(math.isinf(x.most) for x in taken):
                bound = f"more than 2**{max(x.least for x in taken):.0f}"
            yield f'LARGE["{device}"] for {execution}: {bound}; {now}'
