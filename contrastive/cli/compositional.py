"""``contrastive compositional``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Device, Export, Json, Model, SharedRows, Trusted
from contrastive.cli.output import check_export, export_results, show


def compositional(
    tests: Annotated[
        Path, typer.Argument(metavar="FILE", help="SugarCrepe's or Winoground's, or a folder.")
    ],
    images: Annotated[Path | None, typer.Option(help="The folder of the images.")] = None,
    model: Model = None,
    shared: SharedRows = None,
    export: Export = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compositionality benchmarks (SugarCrepe, Winoground)."""
    check_export(export)
    from contrastive.datasets.compositional import read_pair_tests

    read = read_pair_tests(
        tests, images=images
    )  # a mistake in them is told before weights are read
    context = Context(model, device=device, trusted=trusted, changes=changes)
    loaded = context.model
    from contrastive.console import say
    from contrastive.evaluation.caption_choice import pair_accuracy
    from contrastive.reporting.clip_benchmark import pair_results
    from contrastive.reporting.tables import pairs_table

    shared = shared or context.evaluation.shared
    found = [pair_accuracy(loaded, some, shared=shared, cache=context.cache) for some in read]
    for fault in (fault for one in found for fault in one.faults):
        say(fault)
    results = [
        result for one in found for result in pair_results(one, context.subject(one.name, "test"))
    ]
    data = {"pairs": [one.as_dict() for one in found], "clip_benchmark": results}
    notes = [f"{one.name}: {note}" for one in found for note in one.notes]
    show(data, as_json, pairs_table(found), *notes)
    export_results(results, export)
