"""The verbs that measure a model."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contrastive.cli.app import DataOf, Device, Export, Json, Model, Split, Trusted, app
from contrastive.cli.given import cache_for, find_model_folder, load, load_run, run_of
from contrastive.cli.show import show
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from contrastive.clip_benchmark import Subject


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
    from contrastive.clip_benchmark import dataset_name, evaluation_results
    from contrastive.evaluate import evaluate as measure

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        run.data.build(split),
        split=split,
        templates=run.evaluation.templates,
        cache=cache_for(folder),
        workers=run.training.workers,
    )
    from contrastive.progress import say
    from contrastive.tables import report_tables

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
    from contrastive.clip_benchmark import dataset_name, probe_results
    from contrastive.probe import probe as measure
    from contrastive.progress import say
    from contrastive.tables import probe_table

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
        from contrastive.report import draw_probe

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
    from contrastive.datasets.pair_tests import read_pair_tests

    read = read_pair_tests(tests, images=images)
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.clip_benchmark import pair_results
    from contrastive.pair_accuracy import pair_accuracy
    from contrastive.progress import say
    from contrastive.tables import pairs_table

    found = [pair_accuracy(loaded, some, cache=cache_for(folder)) for some in read]
    for fault in (fault for one in found for fault in one.faults):
        say(fault)
    results = [
        result for one in found for result in pair_results(one, _subject(folder, one.name, "test"))
    ]
    _export(results, export)
    data = {"pairs": [one.as_dict() for one in found], "clip_benchmark": results}
    show(data, as_json, pairs_table(found))


def _subject(folder: Path, dataset: str, split: str) -> Subject:
    """Return what was measured, as CLIP_benchmark names it."""
    from contrastive.clip_benchmark import Subject
    from contrastive.model import find_model

    return Subject(dataset, model=str(folder), pretrained=find_model(folder).name, split=split)


def _export(results: list[dict[str, Any]], folder: Path | None) -> None:
    from contrastive.clip_benchmark import write_results
    from contrastive.progress import say

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
    from contrastive.errors import require

    require("matplotlib", extra="report")
    if not shots:
        msg = f"{picture}: a curve is drawn over shots; give --shots 1,2,4,8,16"
        raise SpecError(msg)
