"""The verbs that measure a model."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contrastive.cli.context import (
    cache_for,
    find_model_folder,
    load,
    load_run,
    run_of,
    templates_for,
)
from contrastive.cli.options import (
    DataOf,
    Device,
    Export,
    Json,
    Model,
    Split,
    Template,
    TemplateSet,
    Trusted,
    app,
)
from contrastive.cli.output import show
from contrastive.errors import DataError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.clip_benchmark import Subject
    from contrastive.spec import RunSpec


@app.command()
def evaluate(
    model: Model = None,
    split: Split = None,
    spec: DataOf = None,
    export: Export = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure retrieval both ways, and zero-shot accuracy if the data have classes."""
    folder = find_model_folder(model)
    run = load_run(spec) if spec else run_of(folder, trusted=trusted, remedy="--spec")
    loaded = load(folder, device, trusted=trusted)
    from contrastive.evaluation.evaluate import evaluate as measure
    from contrastive.reporting.clip_benchmark import dataset_name, evaluation_results

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        run.data.build(split),
        split=split,
        templates=run.evaluation.templates,
        cache=cache_for(folder),
        workers=run.training.workers,
    )
    from contrastive.console import say
    from contrastive.reporting.tables import report_tables

    for fault in report.faults:
        say(fault)
    results = evaluation_results(report, _subject(folder, dataset_name(run.data), split))
    _export(results, export)
    data = report.as_dict() | {"clip_benchmark": results}
    show(data, as_json, *report_tables(report))


@app.command()
def probe(
    *,
    model: Model = None,
    split: Split = None,
    train_split: Annotated[str, typer.Option(help="The split that is learned from.")] = "train",
    spec: DataOf = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Also learn from so many samples of each class, such as 1,2,4,8,16."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many times those are drawn.")] = 3,
    modality: Annotated[str, typer.Option(help="Whose tower.")] = "image",
    on: Annotated[str, typer.Option(help="features of the encoder, or embeddings.")] = "features",
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that vote.")] = 20,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the accuracy by shots into this PNG.")
    ] = None,
    export: Export = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a tower has learned: a linear probe and neighbours, on data with classes."""
    by_class = _whole_numbers(shots, "--shots")
    if picture:
        _check_drawable(picture, by_class)
    folder = find_model_folder(model)
    run = load_run(spec) if spec else run_of(folder, trusted=trusted, remedy="--spec")
    loaded = load(folder, device, trusted=trusted)
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
        cache=cache_for(folder),
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
    results = probe_results(report, _subject(folder, dataset_name(run.data), split))
    _export(results, export)
    show(report.as_dict() | {"clip_benchmark": results}, as_json, probe_table(report))


@app.command()
def pairs(
    tests: Annotated[
        Path, typer.Argument(metavar="FILE", help="SugarCrepe's or Winoground's, or a folder.")
    ],
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures.")] = None,
    model: Model = None,
    export: Export = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure whether pictures and captions that differ in little choose each other."""
    from contrastive.datasets.compositional import read_pair_tests

    read = read_pair_tests(tests, images=images)
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.console import say
    from contrastive.evaluation.caption_choice import pair_accuracy
    from contrastive.reporting.clip_benchmark import pair_results
    from contrastive.reporting.tables import pairs_table

    found = [pair_accuracy(loaded, some, cache=cache_for(folder)) for some in read]
    for fault in (fault for one in found for fault in one.faults):
        say(fault)
    results = [
        result for one in found for result in pair_results(one, _subject(folder, one.name, "test"))
    ]
    _export(results, export)
    data = {"pairs": [one.as_dict() for one in found], "clip_benchmark": results}
    show(data, as_json, pairs_table(found))


@app.command()
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
        typer.Option(help="A picture, or a folder of pictures; may be repeated."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="The names, joined by commas.")] = None,
    template: Template = None,
    template_set: TemplateSet = None,
    split: Split = None,
    spec: DataOf = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the pictures and the probabilities into this PNG.")
    ] = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Ask several models the same about the same pictures, and measure them on the same split."""
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    _check_comparable(models, images, names, picture)
    chosen = templates_for(template, template_set)
    run = load_run(spec) if spec else _run_of_any(models, trusted=trusted)
    if not run and (split or not images):
        msg = f"{models[0]}: holds a model without data; give --spec, or --images with --classes"
        raise SpecError(msg)
    loaded = {str(folder): load(folder, device, trusted=trusted) for folder in models}
    from contrastive.prompts import TEMPLATES

    caches = [cache_for(folder) for folder in models]
    settings = {
        "templates": chosen or (run.evaluation.templates if run else TEMPLATES),
        "cache": None if None in caches else caches[0],
    }
    data: dict[str, Any] = {}
    shown: list[Any] = []
    if images:
        data, shown = _asked(loaded, images, names, picture, settings)
    if run:
        insist = bool(spec or split or not images)
        measured, table = _measured(loaded, run, split, settings, insist=insist)
        data, shown = data | measured, shown + table
    show(data, as_json, *shown)


def _asked(
    models: Mapping[str, ContrastiveModel],
    given: list[Path],
    classes: list[str],
    picture: Path | None,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], list[Any]]:
    """Return what models say about pictures, for a machine and for a person."""
    from contrastive.console import say
    from contrastive.evaluation.comparison import compare as ask
    from contrastive.inference.search import images_in
    from contrastive.reporting.plots import MAX_IMAGES, draw_comparison
    from contrastive.reporting.tables import comparison_table

    images = [
        image
        for path in given
        for image in ([row["image"] for row in images_in(path)] if path.is_dir() else [path])
    ]
    comparison = ask(models, images, classes, **settings)
    if picture:
        draw_comparison(comparison, picture)
        only = f" (the first {MAX_IMAGES} pictures)" if len(images) > MAX_IMAGES else ""
        say(f"drawn: {picture}{only}")
    agreed = f"the models agree on {comparison.agreed} of {len(images)} pictures"
    return comparison.as_dict(), [comparison_table(comparison), agreed]


def _measured(
    models: Mapping[str, ContrastiveModel],
    run: RunSpec,
    split: str | None,
    settings: dict[str, Any],
    *,
    insist: bool,
) -> tuple[dict[str, Any], list[Any]]:
    """Return what models are measured at, for a machine and for a person.

    Data that nobody asked for may be gone: then pictures alone are compared.
    """
    from contrastive.console import say
    from contrastive.evaluation.comparison import compare_retrieval
    from contrastive.reporting.tables import measured_tables

    split = split or run.evaluation.final_split
    try:
        samples = run.data.build(split)
    except DataError as error:
        if insist:
            raise
        say(f"retrieval is not measured: {error}")
        return {}, []
    found = compare_retrieval(
        models, samples, split=split, workers=run.training.workers, **settings
    )
    for name, one in found.items():
        for line in one.report.faults if one.report else [one.refusal]:
            say(f"{name}: {line}")
    data = {"split": split, "models": {name: one.as_dict() for name, one in found.items()}}
    return {"retrieval": data}, measured_tables(found, split)


def _check_comparable(
    models: list[Path], images: list[Path] | None, classes: list[str], picture: Path | None
) -> None:
    """Say what a comparison lacks before anything is computed."""
    if len({*models}) < max(2, len(models)):
        msg = (
            f"give at least two models to compare, each once; given: {', '.join(map(str, models))}"
        )
        raise SpecError(msg)
    if bool(images) != bool(classes):
        there, lacking = ("--images", "--classes") if images else ("--classes", "--images")
        msg = f"{there} without {lacking}: pictures are compared by the names that they go with"
        raise SpecError(msg)
    if picture and not images:
        msg = f"{picture}: pictures are drawn with their names; give --images and --classes"
        raise SpecError(msg)
    if picture:
        from contrastive.config.extras import require

        require("matplotlib", extra="report")


def _run_of_any(models: list[Path], *, trusted: bool) -> RunSpec | None:
    """Return the spec of the run that made the first of the models that a run made."""
    from contrastive.model.loading import find_model

    made = [folder for folder in models if (find_model(folder) / "run.json").exists()]
    return run_of(made[0], trusted=trusted, remedy="--spec") if made else None


def _subject(folder: Path, dataset: str, split: str) -> Subject:
    """Return what was measured, as CLIP_benchmark names it."""
    from contrastive.model.loading import find_model
    from contrastive.reporting.clip_benchmark import Subject

    return Subject(dataset, model=str(folder), pretrained=find_model(folder).name, split=split)


def _export(results: list[dict[str, Any]], folder: Path | None) -> None:
    from contrastive.console import say
    from contrastive.reporting.clip_benchmark import write_results

    for path in write_results(results, folder) if folder else ():
        say(f"written: {path}")


def _whole_numbers(text: str | None, option: str) -> list[int]:
    """Return numbers that are joined by commas."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdecimal() and int(word))]:
        msg = f"{option}: {wrong[0]!r} is not a whole number above 0; write 1,2,4"
        raise SpecError(msg)
    return [int(word) for word in words]


def _check_drawable(picture: Path, shots: list[int]) -> None:
    """Say what a picture lacks before anything is computed."""
    from contrastive.config.extras import require

    require("matplotlib", extra="report")
    if not shots:
        msg = f"{picture}: a curve is drawn over shots; give --shots 1,2,4,8,16"
        raise SpecError(msg)
