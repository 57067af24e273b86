"""``contrastive evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import (
    Changes,
    Data,
    Device,
    Export,
    Json,
    Model,
    SharedRows,
    Split,
    Trusted,
)
from contrastive.cli.output import check_export, export_results, show
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from typing import Any

    from contrastive.spec import Shared


def evaluate(
    *,
    model: Model = None,
    split: Split = None,
    data: Data = None,
    shared: SharedRows = None,
    export: Export = None,
    mteb: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS",
            help="Measure tasks or benchmarks of mteb instead, joined by commas; data stands for "
            "retrieval on the data. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Keep the result files of --mteb here."
        ),
    ] = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure retrieval in both directions, and zero-shot accuracy if the data have classes."""
    context = Context(model, device=device, trusted=trusted, changes=changes)
    if mteb is not None:
        if export:
            msg = "--clip-benchmark is not for --mteb; mteb's result files go to --output"
            raise SpecError(msg)
        _by_mteb(context, mteb, output, as_json, split=split, data=data, shared=shared)
        return
    if output:
        msg = f"--output {output}: keeps the result files of --mteb alone; for JSON, --json"
        raise SpecError(msg)
    check_export(export)
    run = context.run(data)
    loaded = context.model
    from contrastive.console import say
    from contrastive.data.worker_processes import worker_count
    from contrastive.evaluation.evaluate import evaluate as measure
    from contrastive.reporting.clip_benchmark import dataset_name, evaluation_results
    from contrastive.reporting.tables import report_tables

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        context.build(run, split),
        split=split,
        templates=run.evaluation.templates,
        shared=shared or run.evaluation.shared,
        cache=context.cache,
        workers=worker_count(run.training.workers),
    )
    for fault in report.faults:
        say(fault)
    results = evaluation_results(report, context.subject(dataset_name(run.data), split))
    found = report.as_dict() | {"clip_benchmark": results}
    show(found, as_json, *report_tables(report))
    export_results(results, export)


def _by_mteb(
    context: Context,
    wanted: list[str],
    output: Path | None,
    as_json: bool,
    *,
    split: str | None,
    data: str | None,
    shared: Shared | None,
) -> None:
    from contrastive.evaluation.mteb_encoder import MtebEncoder
    from contrastive.evaluation.mteb_tasks import LOCAL, measure, names_of_tasks, tasks_named
    from contrastive.reporting.tables import mteb_table

    names = names_of_tasks(wanted)
    if not names:
        msg = f"--mteb: is empty; give names of tasks, or {LOCAL}"
        raise SpecError(msg)
    about_data = {"--split": split, "--data": data, "--shared": shared}
    given = next((option for option, value in about_data.items() if value), None)
    if given and LOCAL not in names:
        msg = f"{given}: mteb's tasks have data of their own; leave it out, or give --mteb {LOCAL}"
        raise SpecError(msg)
    lacking = [modality for modality in ("image", "text") if modality not in context.spec.towers]
    if LOCAL in names and lacking:
        msg = (
            f"--mteb {LOCAL}: is retrieval between images and texts, and the model has no tower "
            f"for {lacking[0]}; leave {LOCAL} out, and measure it by evaluate without --mteb"
        )
        raise SpecError(msg)
    tasks = tasks_named([name for name in names if name != LOCAL], context.spec.towers)
    if LOCAL in names:
        tasks = [*_local_tasks(context, split, data, shared), *tasks]
    encoder = MtebEncoder(context.model, name=f"contrastive/{context.folder.name}")
    report = measure(encoder, tasks, output)
    show(report.as_dict(), as_json, mteb_table(report))


def _local_tasks(
    context: Context, split: str | None, data: str | None, shared: Shared | None
) -> list[Any]:
    from contrastive.data.worker_processes import worker_count
    from contrastive.evaluation.mteb_local import local_tasks
    from contrastive.reporting.clip_benchmark import dataset_name

    run = context.run(data)
    split = split or run.evaluation.final_split
    return local_tasks(
        context.build(run, split),
        name=dataset_name(run.data),
        split=split,
        seen=context.model.seen,
        shared=shared or run.evaluation.shared,
        workers=worker_count(run.training.workers),
    )
