"""A table and a plot from ``results.json``, and from nothing else."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """One arm of ours and one of a peer, in the rounds that both have."""

    work: str
    ours: str
    peer: str
    ratios: list[float]
    """Of times, or of rates, ours to the peer's; one for each round."""
    bar: float | None
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Return whether the bar is, or None without one."""
        if self.bar is None:
            return None
        return self.ratio >= self.bar if self.more_is_better else self.ratio <= self.bar


def comparisons(data: dict[str, Any]) -> list[Comparison]:
    """Return each arm of ours beside each peer that has a bar, or all peers of a function."""
    found = []
    for work in data["works"].values():
        for ours, peer, bar in work["pairs"]:
            both = [x for x in work["rounds"] if ours in x and peer in x]
            if both:
                ratios = [x[ours] / x[peer] for x in both]
                found.append(
                    Comparison(work["title"], ours, peer, ratios, bar, work["more_is_better"])
                )
    return found


def write_report(path: Path) -> None:
    """Write, of ``x.json``, ``x.md`` and with matplotlib ``x.png``."""
    data = json.loads(path.read_text())
    table = path.with_suffix(".md")
    table.write_text("\n".join(lines(data)) + "\n")
    say(str(table))
    try:
        from benchmarks.peers.plot import plot
    except ImportError:
        say("no plot: matplotlib is not installed")
    else:
        say(str(plot(comparisons(data), data["about"]["device"], path.with_suffix(".png"))))


def lines(data: dict[str, Any]) -> Iterator[str]:
    """Return the report in Markdown."""
    about = data["about"]
    yield f"# Beside other packages, on {about['device']}"
    yield ""
    yield f"`{about['command']}`"
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    for work in data["works"].values():
        yield from ("", f"## {work['title']}", "")
        yield f"| | {work['unit']} | rounds |"
        yield "|---|---|---|"
        for arm in dict.fromkeys(arm for found in work["rounds"] for arm in found):
            values = [found[arm] for found in work["rounds"] if arm in found]
            yield f"| {arm} | {statistics.median(values):.4g} | {len(values)} |"
        for arm, reason in work["left_out"].items():
            yield f"| {arm} | left out: {' '.join(reason.split())[-300:]} | |"
    yield from ("", "## Ratios", "")
    yield "| | ours | peer | ratio, lowest to highest | bar | |"
    yield "|---|---|---|---|---|---|"
    for x in comparisons(data):
        sign = "≥" if x.more_is_better else "≤"
        bar = "" if x.bar is None else f"{sign} {x.bar:g}"
        met = {True: "met", False: "**missed**", None: ""}[x.met]
        spread = f"{x.ratio:.2f} ({min(x.ratios):.2f} to {max(x.ratios):.2f})"
        yield f"| {x.work} | {x.ours} | {x.peer} | {spread} | {bar} | {met} |"
