"""How many times as fast as each peer ours is, a bar for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.report import Comparison


def plot(compared: list[Comparison], device: str, path: Path) -> Path:
    """Draw all comparisons; to the right of the line ours is faster."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 1.2 + 0.32 * len(compared)), layout="constrained")
        axes = figure.add_subplot()
        for row, x in enumerate(compared):
            faster = x.ratio if x.more_is_better else 1 / x.ratio
            colour = "C3" if x.met is False else "C0"
            axes.barh(row, faster - 1, left=1, color=colour, height=0.7)
            axes.annotate(
                f"{faster:.2f}",
                (faster, row),
                (4 if faster >= 1 else -4, 0),
                textcoords="offset points",
                va="center",
                ha="left" if faster >= 1 else "right",
                fontsize="small",
            )
            if x.bar is not None:
                asked = x.bar if x.more_is_better else 1 / x.bar
                axes.plot([asked, asked], [row - 0.4, row + 0.4], color="black", lw=1.5)
        labels = [f"{x.work}: {x.ours} / {x.peer}" for x in compared]
        axes.set_yticks(range(len(compared)), labels, fontsize="small")
        axes.invert_yaxis()
        axes.axvline(1, color="grey", lw=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.15)
        axes.set_xlabel("times as fast as the peer; black: what is asked for, red: missed")
        figure.suptitle(device, fontsize="small")
        figure.savefig(path, dpi=130)
    return path
