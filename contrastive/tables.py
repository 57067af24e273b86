"""Results as tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from contrastive.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.evaluate import Figure, Report


def report_tables(report: Report) -> list[Table]:
    """Return retrieval, and zero-shot classification if it was measured."""
    retrieval = Table(title=_plain(f"retrieval on {report.split}, % (95 % interval)"))
    for name in ("query -> target", "R@1", "R@5", "R@10", "median\nrank", "queries x\ntargets"):
        retrieval.add_column(name, min_width=11 if name.startswith("R@") else None)
    for name, direction in report.retrieval.items():
        retrieval.add_row(
            name.replace("_to_", " -> "),
            *(_shown(figure) for figure in direction.recall.values()),
            f"{direction.median_rank:g}",
            f"{direction.queries} x {direction.targets}",
        )
        by_chance = (f"{100 * figure.chance:.1f}" for figure in direction.recall.values())
        retrieval.add_row("by chance", *by_chance, style="dim", end_section=True)
    if not (zero_shot := report.classification):
        return [retrieval]
    classes = Table(title=_plain(f"zero-shot classification on {report.split}, %"))
    for name in ("top-1 (95 % interval)", "majority class", "mean per class", "images", "classes"):
        classes.add_column(name)
    classes.add_row(
        _shown(zero_shot.accuracy),
        f"{100 * zero_shot.accuracy.chance:.1f}",
        f"{100 * zero_shot.mean_per_class:.1f}",
        str(zero_shot.images),
        str(zero_shot.classes),
    )
    return [retrieval, classes]


def classes_table(results: Sequence[dict[str, Any]], top: int) -> Table:
    """Return the likeliest names of each picture."""
    table = Table()
    table.add_column("image")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for result in results:
        best = sorted(result["probabilities"].items(), key=lambda item: -item[1])[:top]
        for place, (name, probability) in enumerate(best):
            shown = Path(result["image"]).name if place == 0 else ""
            table.add_row(_plain(shown), _plain(name), f"{probability:.1%}")
        table.add_section()
    return table


def hits_table(hits: Sequence[dict[str, Any]]) -> Table:
    """Return search results, best first."""
    table = Table()
    table.add_column("#", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("found")
    table.add_column("where")
    for place, hit in enumerate(hits, 1):
        found, where = _plain(hit["found"]), _plain(hit["source"])
        table.add_row(str(place), f"{hit['similarity']:.3f}", found, where)
    return table


def plugins_table(found: Sequence[dict[str, str]]) -> Table:
    """Return every component."""
    table = Table()
    for name in ("kind", "name", "package", "version", "path", "state"):
        table.add_column(name, overflow="fold")
    for entry in found:
        state = f"{entry['state']}: {entry['why']}" if entry["why"] else entry["state"]
        row = (entry["kind"], entry["name"], entry["package"], entry["version"], entry["path"])
        table.add_row(*map(_plain, row), _plain(state))
    return table


def _shown(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _plain(text: str) -> Text:
    """Show a stranger's text without obeying it."""
    return Text(printable(text))
