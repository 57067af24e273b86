"""``contrastive probe``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import (
    Changes,
    Data,
    Device,
    Export,
    Json,
    Model,
    Plot,
    SharedRows,
    Split,
    Trusted,
)
from contrastive.cli.output import check_export, check_plot, export_results, show
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path


def probe(
    *,
    model: Model = None,
    split: Split = None,
    train_split: Annotated[str, typer.Option(help="Split that the probe is fitted on.")] = "train",
    data: Data = None,
    shared: SharedRows = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Also fit few-shot: k samples of each class, such as 1,2,4,8,16."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws per shot count.")] = 3,
    modality: Annotated[str, typer.Option(help="Modality of the tower to probe.")] = "image",
    inputs: Annotated[
        str, typer.Option(help="features of the encoder, or embeddings of the tower.")
    ] = "features",
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of the k-NN classifier.")] = 20,
    plot: Plot = None,
    export: Export = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Linear probe and k-NN on frozen features, for data with classes."""
    by_class = _whole_numbers(shots, "--shots")
    check_export(export)
    if plot:
        _check_plottable(plot, by_class)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    run = context.run(data)
    loaded = context.model
    from contrastive.console import say
    from contrastive.data.worker_processes import worker_count
    from contrastive.evaluation.probe import probe as measure
    from contrastive.reporting.clip_benchmark import dataset_name, probe_results
    from contrastive.reporting.tables import probe_table

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        context.build(run, train_split, option="--train-split"),
        context.build(run, split),
        modality=modality,
        inputs=cast("Any", inputs),
        shots=by_class,
        seeds=seeds,
        k=k,
        templates=run.evaluation.templates,
        shared=shared or run.evaluation.shared,
        cache=context.cache,
        workers=worker_count(run.training.workers),
        train_split=train_split,
        split=split,
    )
    for fault in report.faults:
        say(fault)
    results = probe_results(report, context.subject(dataset_name(run.data), split))
    show(
        report.as_dict() | {"clip_benchmark": results}, as_json, probe_table(report), *report.notes
    )
    export_results(results, export)
    if plot:
        from contrastive.reporting.plots import draw_probe

        draw_probe(report, plot)
        say(f"drawn: {plot}")


def _whole_numbers(text: str | None, option: str) -> list[int]:
    """Return numbers that are joined by commas."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal() and int(word))]:
        msg = f"{option}: {wrong[0]!r} is not a whole number above 0; write 1,2,4"
        raise SpecError(msg)
    return [int(word) for word in words]


def _check_plottable(plot: Path, shots: list[int]) -> None:
    """Say what a plot lacks before anything is computed."""
    check_plot(plot)
    if not shots:
        msg = f"{plot}: a curve is drawn over shots; give --shots 1,2,4,8,16"
        raise SpecError(msg)
