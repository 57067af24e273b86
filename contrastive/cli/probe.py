"""``contrastive probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from contrastive.cli.context import Context, load_run
from contrastive.cli.options import DataOf, Device, Export, Json, Model, Split, Trusted
from contrastive.cli.output import export_results, show
from contrastive.errors import SpecError


def probe(
    *,
    model: Model = None,
    split: Split = None,
    train_split: Annotated[str, typer.Option(help="Split that the probe is fitted on.")] = "train",
    spec: DataOf = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Also fit on so many samples of each class, such as 1,2,4,8,16."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws per shot count.")] = 3,
    modality: Annotated[str, typer.Option(help="Modality of the tower to probe.")] = "image",
    on: Annotated[
        str, typer.Option(help="features of the encoder, or embeddings of the tower.")
    ] = "features",
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of the k-NN classifier.")] = 20,
    picture: Annotated[
        Path | None, typer.Option(help="Plot the accuracy by shots into this PNG.")
    ] = None,
    export: Export = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Linear probe and k-NN on frozen features, for data with classes."""
    by_class = _whole_numbers(shots, "--shots")
    if picture:
        _check_plottable(picture, by_class)
    context = Context(model, device=device, trusted=trusted)
    run = load_run(spec) if spec else context.run(remedy="--spec")
    loaded = context.model
    from contrastive.console import say
    from contrastive.evaluation.probe import probe as measure
    from contrastive.reporting.clip_benchmark import dataset_name, probe_results
    from contrastive.reporting.tables import probe_table

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        run.data.build(train_split),
        run.data.build(split),
        modality=modality,
        on=cast("Any", on),
        shots=by_class,
        seeds=seeds,
        k=k,
        templates=run.evaluation.templates,
        cache=context.cache,
        workers=run.training.workers,
        train_split=train_split,
        split=split,
    )
    for fault in report.faults:
        say(fault)
    if picture:
        from contrastive.reporting.plots import draw_probe

        draw_probe(report, picture)
        say(f"drawn: {picture}")
    results = probe_results(report, context.subject(dataset_name(run.data), split))
    export_results(results, export)
    show(report.as_dict() | {"clip_benchmark": results}, as_json, probe_table(report))


def _whole_numbers(text: str | None, option: str) -> list[int]:
    """Return numbers that are joined by commas."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal() and int(word))]:
        msg = f"{option}: {wrong[0]!r} is not a whole number above 0; write 1,2,4"
        raise SpecError(msg)
    return [int(word) for word in words]


def _check_plottable(picture: Path, shots: list[int]) -> None:
    """Say what a plot lacks before anything is computed."""
    from contrastive.config.extras import require

    require("matplotlib", extra="report")
    if not shots:
        msg = f"{picture}: a curve is drawn over shots; give --shots 1,2,4,8,16"
        raise SpecError(msg)
