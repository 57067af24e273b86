"""Plots: a run's curves, a probe by shots, calibration, what a search brings back, models."""

from __future__ import annotations

import textwrap
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from contrastive.config.extras import require
from contrastive.console import printable
from contrastive.data.images import ImageSource, open_image
from contrastive.data.storage.folders import named_file
from contrastive.errors import DataError
from contrastive.reporting.run_log import read_log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from contrastive.evaluation.calibration import CalibrationReport
    from contrastive.evaluation.comparison import Comparison
    from contrastive.evaluation.probe import ProbeReport

P = ParamSpec("P")
Hit = tuple[ImageSource, str]
"""An image and the words below it."""

MAX_IMAGES = 40  # of a comparison, one below the other: more would be higher than a PNG may be read
NAMES = 8  # of each of them
LONGEST = 40  # letters of a name beside a bar


def _without_tex(draw: Callable[P, None]) -> Callable[P, None]:
    """Let text be text, whatever a matplotlibrc says: titles have %, and names have anything."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        with require("matplotlib", extra="report").rc_context({"text.usetex": False}):
            draw(*args, **kwargs)

    return drawn


@_without_tex
def draw_curves(log: Path, path: Path) -> None:
    """Draw loss, logit scale and recall of a run's ``log.jsonl`` into a PNG.

    Raises:
        DataError: the log has no steps.
        MissingExtra: matplotlib is not installed.
    """
    lines = read_log(log)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        msg = f"{log}: no steps to draw"
        raise DataError(msg)
    figure, axes = _canvas(1, 3, width=4.2, height=3.2)
    loss, scale, recall = axes[0]
    at = [line["step"] for line in steps]
    loss.plot(at, [line["loss"] for line in steps])
    loss.set(title="training loss (nats)", xlabel="step")
    scale.plot(at, [line.get("log_scale", float("nan")) for line in steps])
    scale.set(title="log scale, ln(1/temperature)", xlabel="step")
    measured = [line for line in lines if "evaluation" in line]
    for name in measured[0]["evaluation"]["retrieval"] if measured else ():
        values = [
            line["evaluation"]["retrieval"][name]["recall"]["1"]["value"] for line in measured
        ]
        at_end = [line["step"] for line in measured]
        recall.plot(at_end, [100 * v for v in values], marker="o", label=_label(name))
    recall.set(title="recall@1 after each epoch, %", xlabel="step")
    if measured:
        recall.legend(frameon=False)
    _save(figure, path)


@_without_tex
def draw_probe(report: ProbeReport, path: Path) -> None:
    """Draw the accuracy of a linear probe by shots, and what needs none, into a PNG.

    Raises:
        DataError: the probe had no shots.
        MissingExtra: matplotlib is not installed.
    """
    points = sorted((p.shots, p) for p in report.linear if p.shots)
    if not points:
        msg = "no shots to draw; probe with some, such as shots=[1, 2, 4, 8, 16]"
        raise DataError(msg)
    figure, axes = _canvas(1, 1, width=5.5, height=3.8)
    axis = axes[0][0]
    shots = [k for k, _ in points]
    top1 = [100 * point.accuracy.top1.value for _, point in points]
    spread = [100 * (point.std or 0) for _, point in points]
    axis.errorbar(shots, top1, yerr=spread, marker="o", capsize=3, label="linear probe, by shots")
    lines = {
        "linear probe, all samples": report.linear[-1].accuracy,
        f"{report.knn.k} neighbours, all samples": report.knn.accuracy,
        "zero-shot": report.zero_shot,
    }
    for (name, accuracy), style in zip(lines.items(), (":", "-.", "--"), strict=True):
        if accuracy:
            axis.axhline(100 * accuracy.top1.value, linestyle=style, color="0.35", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, map(str, shots))
    axis.set_title(f"top-1 on {report.split}, %", parse_math=False)
    axis.set_xlabel("training samples of each class")
    axis.legend(frameon=False)
    _save(figure, path)


@_without_tex
def draw_reliability(report: CalibrationReport, path: Path) -> None:
    """Draw how often pairs are right by their probability, and what thresholds reject.

    Raises:
        DataError: it was not judged.
        MissingExtra: matplotlib is not installed.
    """
    if not report.is_judged:
        msg = "no plot: the calibration was judged on no other data; give a split to judge on"
        raise DataError(msg)
    figure, axes = _canvas(1, 2, width=4.4, height=4.0)
    pairs, absent = axes[0]
    pairs.plot([0, 100], [0, 100], color="0.6", linestyle=":")
    for name, found in report.reliability.items():
        at = [100 * one.probability for one in found.bins]
        label = f"{_label(name)}: error {found.error:.3f}"
        pairs.plot(at, [100 * one.share for one in found.bins], marker="o", label=label)
    pairs.set_title(f"pairs of {report.split or 'the test data'}", parse_math=False)
    pairs.set(xlabel="probability, %", ylabel="of them right, %")
    for by, line, several in (
        ("", "-", report.rejection),
        (", standardized", "--", report.standardized_rejection),
    ):
        for direction, found in several.items():
            lost, rejected = ([100 * point[i] for point in found.curve] for i in (1, 2))
            label = f"{_label(direction)}{by}: area {found.area:.3f}"
            absent.plot(lost, rejected, linestyle=line, label=label)
    absent.axvline(5, color="0.6", linestyle=":")
    absent.set(title="by threshold", xlabel="true hits lost, %", ylabel="absent rejected, %")
    for axis in (pairs, absent):
        axis.legend(frameon=False)
    _save(figure, path)


@_without_tex
def draw_hits(searches: Sequence[tuple[str, Sequence[Hit]]], path: Path) -> None:
    """Draw what each query brought back, a row for each, best first, into a PNG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    most = max(len(hits) for _, hits in searches)
    figure, axes = _canvas(len(searches), most, width=1.35, height=1.75)
    for (query, hits), row in zip(searches, axes, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].set_title(
            f"\N{LEFT DOUBLE QUOTATION MARK}{query}\N{RIGHT DOUBLE QUOTATION MARK}",
            loc="left",
            parse_math=False,
        )
        for axis, (image, words) in zip(row, hits, strict=False):
            axis.imshow(open_image(image))
            below = textwrap.fill(words, 20, max_lines=2, placeholder=" ...")
            how = {"ha": "center", "va": "top", "size": 7, "parse_math": False}
            axis.text(0.5, -0.03, below, transform=axis.transAxes, **how)
    _save(figure, path)


@_without_tex
def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draw each image beside every model's probabilities of its likeliest names, into a PNG.

    At most 40 images are drawn, the first ones, and of each the 8 names that some model finds
    likeliest.

    Raises:
        DataError: there are no images.
        MissingExtra: matplotlib is not installed.
    """
    drawn = comparison.images[:MAX_IMAGES]
    if not drawn:
        msg = "no images to draw; give some to compare"
        raise DataError(msg)
    figure, axes = _canvas(len(drawn), 2, width=3.6, height=2.1)
    for index, (image, (shown, bars)) in enumerate(zip(drawn, axes, strict=True)):
        shown.imshow(open_image(image))
        shown.axis("off")
        _draw_bars(comparison, index, bars)
    first, last = axes[0][1], axes[-1][1]
    last.set_xlabel("probability, %")
    for number, model in enumerate(reversed(comparison.probabilities)):  # the legend, upwards
        name = printable(model)
        first.text(
            *(0, 1.05 + 0.14 * number),
            name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}",  # a path's end says more
            color=f"C{len(comparison.probabilities) - 1 - number}",
            transform=first.transAxes,
            parse_math=False,
        )
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with named_file(path):
        figure.savefig(path, dpi=110)


def _label(direction: str) -> str:
    """Return what a legend calls a direction; it would take what is between $ as mathematics."""
    return direction.replace("_", " ").replace("$", r"\$")


def _draw_bars(comparison: Comparison, index: int, axis: Any) -> None:
    """Draw every model's probabilities of the likeliest names of one image, a colour a model."""
    rows = [comparison.by_image(model)[index] for model in comparison.probabilities]
    highest = [max(column) for column in zip(*rows, strict=True)]
    names = sorted(range(len(highest)), key=lambda c: -highest[c])[:NAMES]
    thick = 0.8 / len(rows)
    for number, row in enumerate(rows):
        at = [i + (number - (len(rows) - 1) / 2) * thick for i in range(len(names))]
        axis.barh(at, [100 * row[c] for c in names], height=thick, color=f"C{number}")
    labels = [printable(comparison.classes[c])[:LONGEST] for c in names]
    axis.set_yticks(range(len(names)), labels, parse_math=False)
    axis.set(xlim=(0, 100))
    axis.invert_yaxis()


def _canvas(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure that needs no screen, and its axes as rows of columns."""
    figures = require("matplotlib.figure", extra="report")
    figure = figures.Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
