"""``contrastive compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrastive.cli.context import Context, classes_in, readable_images, templates_for
from contrastive.cli.options import (
    Changes,
    ClassesFile,
    Data,
    Device,
    Json,
    Plot,
    SharedRows,
    Split,
    Template,
    TemplateSet,
    Trusted,
)
from contrastive.cli.output import check_plot, show
from contrastive.errors import DataError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contrastive.evaluation.comparison import Comparison
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec


def compare(
    *,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="OURS THEIRS...", help="Runs, saved models, or pretrained ones (hf:OWNER/NAME)."
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(help="An image, or a folder of images; may be repeated."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes, joined by commas, one with a comma in quotes; or a set, "
            "such as imagenet."
        ),
    ] = None,
    classes_file: ClassesFile = None,
    template: Template = None,
    template_set: TemplateSet = None,
    split: Split = None,
    data: Data = None,
    shared: SharedRows = None,
    plot: Plot = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare models side by side: on the same images, and on the same split."""
    names = classes_in(classes, classes_file)
    _check_comparable(models, images, names, plot)
    chosen = templates_for(template, template_set)
    contexts = [
        Context(folder, device=device, trusted=trusted, changes=changes) for folder in models
    ]
    made_by_runs = [context for context in contexts if context.has_run]
    with_data = contexts if data else made_by_runs
    run = with_data[0].run(data) if with_data else None
    if not run and (split or not images):
        msg = f"{models[0]}: holds a model without data; give --data, or --images with --classes"
        raise SpecError(msg)
    loaded = {str(context.folder): context.model for context in contexts}
    from contrastive.prompts import TEMPLATES
    from contrastive.reporting.tables import comparison_table

    caches = [context.cache for context in contexts]
    settings = {
        "templates": chosen or (run.evaluation.templates if run else TEMPLATES),
        "cache": None if None in caches else caches[0],
    }
    result: dict[str, Any] = {}
    shown: list[Any] = []
    comparison = _classified(loaded, images, names, settings) if images else None
    if comparison:
        agreed = f"the models agree on {comparison.agreed} of {len(comparison.images)} images"
        result, shown = comparison.as_dict(), [comparison_table(comparison), agreed]
    if run:
        insist = bool(data or split or not images)
        settings["shared"] = shared or run.evaluation.shared
        measured, table = _measured(loaded, with_data[0], run, split, settings, insist=insist)
        result, shown = result | measured, shown + table
    show(result, as_json, *shown)
    if comparison and plot:  # what was measured is shown, whatever becomes of the plot
        _draw(comparison, plot)


def _classified(
    models: Mapping[str, ContrastiveModel],
    given: list[Path],
    classes: list[str],
    settings: dict[str, Any],
) -> Comparison:
    """Return the models' classifications of images."""
    from contrastive.datasets.single_modality import images_in
    from contrastive.evaluation.comparison import compare as classify_by_each

    images = [
        image
        for path in given
        for image in ([row["image"] for row in images_in(path)] if path.is_dir() else [path])
    ]
    return classify_by_each(models, readable_images(images), classes, **settings)


def _draw(comparison: Comparison, plot: Path) -> None:
    from contrastive.console import say
    from contrastive.reporting.plots import MAX_IMAGES, draw_comparison

    draw_comparison(comparison, plot)
    only = f" (the first {MAX_IMAGES} images)" if len(comparison.images) > MAX_IMAGES else ""
    say(f"drawn: {plot}{only}")


def _measured(
    models: Mapping[str, ContrastiveModel],
    context: Context,
    run: RunSpec,
    split: str | None,
    settings: dict[str, Any],
    *,
    insist: bool,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the models' retrieval on a split, for a machine and for a person.

    Data that were not asked for may be missing: then only images are compared.
    """
    from contrastive.console import say, say_omission
    from contrastive.data.worker_processes import worker_count
    from contrastive.evaluation.comparison import compare_retrieval
    from contrastive.reporting.tables import measured_tables

    split = split or run.evaluation.final_split
    try:
        samples = context.build(run, split)
    except DataError as error:
        if insist:
            raise
        say_omission(f"retrieval is not measured: {error}")
        return {}, []
    found = compare_retrieval(
        models, samples, split=split, workers=worker_count(run.training.workers), **settings
    )
    for name, one in found.items():
        if not one.report:
            say_omission(f"{name}: {one.refusal}")
            continue
        for line in (*one.report.faults, *one.report.notes):
            say(f"{name}: {line}")
    data = {"split": split, "models": {name: one.as_dict() for name, one in found.items()}}
    return {"retrieval": data}, measured_tables(found, split)


def _check_comparable(
    models: list[Path], images: list[Path] | None, classes: list[str], plot: Path | None
) -> None:
    """Say what a comparison lacks before anything is computed."""
    if len({*models}) < max(2, len(models)):
        msg = (
            f"give at least two models to compare, each once; given: {', '.join(map(str, models))}"
        )
        raise SpecError(msg)
    if bool(images) != bool(classes):
        there, lacking = ("--images", "--classes") if images else ("--classes", "--images")
        msg = f"{there} without {lacking}: images are compared by their classes; give both"
        raise SpecError(msg)
    if plot and not images:
        msg = f"{plot}: a plot shows images with their classes; give --images and --classes"
        raise SpecError(msg)
    if plot:
        check_plot(plot)
