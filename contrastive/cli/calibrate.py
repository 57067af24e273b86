"""``contrastive calibrate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import (
    Changes,
    Data,
    Device,
    Json,
    Model,
    Plot,
    SharedRows,
    Split,
    Trusted,
)
from contrastive.cli.output import check_plot, show
from contrastive.errors import DataError, SpecError

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.spec import RunSpec


def calibrate(
    *,
    model: Model = None,
    fit_split: Annotated[
        str | None,
        typer.Option(help="Split that it is fitted on; else the spec's evaluation.split."),
    ] = None,
    split: Split = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Standardise scores: what a query is near to anyhow, among samples of this split, "
            "such as train, counts the less.",
        ),
    ] = None,
    data: Data = None,
    shared: SharedRows = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Save the calibrated model here; else the calibration goes into the model's own "
            "folder.",
        ),
    ] = None,
    plot: Plot = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit what scores are worth as probabilities on one split, judge it on another, store it."""
    if plot:
        check_plot(plot)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    if output is None:
        _check_own(context, model)
    run = context.run(data)
    loaded = context.model
    from contrastive.console import say
    from contrastive.data.worker_processes import worker_count
    from contrastive.evaluation.calibration import calibrate as fit
    from contrastive.model.calibration_file import store_calibration
    from contrastive.reporting.calibration_tables import calibration_tables

    fit_split = fit_split or run.evaluation.split or "val"
    samples = context.build(run, fit_split, option="--fit-split")
    name, test = _judged_on(context, run, split)
    report = fit(
        loaded,
        samples,
        test,
        background=context.build(run, background, option="--background") if background else None,
        fit_split=fit_split,
        split=name,
        shared=shared or run.evaluation.shared,
        cache=context.cache,
        workers=worker_count(run.training.workers),
    )
    for fault in report.faults:
        say(fault)
    if output is None and context.saved:
        place = store_calibration(loaded, context.saved)
    else:
        place = output or context.folder
        loaded.save(place)
    show(report.as_dict() | {"written": str(place)}, as_json, *calibration_tables(report))
    say(f"written: {place}")
    if plot:
        from contrastive.reporting.plots import draw_reliability

        draw_reliability(report, plot)
        say(f"drawn: {plot}")


def _check_own(context: Context, model: Path | None) -> None:
    """Insist on a folder that a calibration can be written to."""
    from contrastive.config.arguments import address_in
    from contrastive.pretrained import is_pretrained

    given = model or os.environ.get("CONTRASTIVE_MODEL") or ""
    if address_in("the model", given) or is_pretrained(given) or context.saved is None:
        msg = f"{given}: is no folder of this machine; save the calibrated model in one: -o FOLDER"
        raise SpecError(msg)


def _judged_on(context: Context, run: RunSpec, split: str | None) -> tuple[str, Samples | None]:
    """Return the split to judge on; none where the data have none and none was asked for."""
    from contrastive.console import say_omission

    name = split or run.evaluation.final_split
    try:
        return name, context.build(run, name)
    except DataError as error:
        if split:
            raise
        say_omission(f"the calibration is not judged: {error}")
        return name, None
