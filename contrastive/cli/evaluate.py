"""``contrastive evaluate``."""

from __future__ import annotations

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


def evaluate(
    model: Model = None,
    split: Split = None,
    data: Data = None,
    shared: SharedRows = None,
    export: Export = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure retrieval in both directions, and zero-shot accuracy if the data have classes."""
    check_export(export)
    context = Context(model, device=device, trusted=trusted, changes=changes)
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
