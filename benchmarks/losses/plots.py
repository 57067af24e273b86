"""Time and memory against N, one panel for each width."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.losses.timing import spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Case = dict[str, Any]
Point = tuple[float, float, float]
LETTERS = 12  # of a title, on an inch


def plot(data: dict[str, Any], results: Path) -> list[Path]:
    """Plot forward and backward on unit features beside the file they come from."""
    kind = {"mode": "both", "raw": False, "ids": data["options"]["ids"][0]}
    kind["dtype"] = data["options"]["dtypes"][0]
    timed = [x for x in data["speed"] if x["rounds"]]
    cases = [x for x in timed if all(x[key] == value for key, value in kind.items())]
    if not cases:
        return []
    device = data["about"]["device"]
    drawn = [
        ("time", "ms", _time),
        ("memory", "MB beyond the inputs", _memory),
    ]
    return [_draw(what, label, of, cases, device, results) for what, label, of in drawn]


def _time(case: Case, name: str) -> Point | None:
    return spread(case["rounds"], name) if any(name in x for x in case["rounds"]) else None


def _memory(case: Case, name: str) -> Point | None:
    used = case["memory"].get(name)
    return used and (used["peak"] / 1e6,) * 3


def _draw(
    what: str,
    label: str,
    of: Callable[[Case, str], Point | None],
    cases: list[Case],
    device: str,
    results: Path,
) -> Path:
    panels = list(dict.fromkeys((x["loss"], x["d"]) for x in cases))
    names = list(dict.fromkeys(name for x in cases for y in x["rounds"] for name in y))
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4 * len(panels) + 1, 3.8), layout="constrained")
        for at, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), at + 1)
            here = [x for x in cases if (x["loss"], x["d"]) == panel]
            for number, name in enumerate(names):
                points = [(x["n"], *y) for x in here if (y := of(x, name))]
                if points:
                    n, middle, low, high = zip(*points, strict=True)
                    (line,) = axes.plot(n, middle, "o-", ms=4, color=f"C{number}", label=name)
                    axes.fill_between(n, low, high, color=line.get_color(), alpha=0.2, lw=0)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(sorted({x["n"] for x in here}))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.set(title=f"{panel[0]}, D = {panel[1]}", xlabel="N", ylabel=label)
            axes.grid(visible=True, alpha=0.3)
            axes.legend(frameon=False, fontsize="small")
        title = f"{device}: forward and backward"
        letters = int(LETTERS * figure.get_figwidth())
        figure.suptitle(fill(title, letters), fontsize="small")
        path = results.with_name(f"{results.stem}_{what}.png")
        figure.savefig(path, dpi=130)
    return path
