"""The ``contrastive`` command.

Results go to stdout (``--json`` for machines), everything else to stderr. A user's mistake is one
line for each and exit code 2. torch is imported by the commands that compute, not by the others.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from contrastive.errors import (
    ContrastiveError,
    DataError,
    SpecError,
    WeightsError,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import TextIOWrapper

    from rich.table import Table

    from contrastive.cache import FeatureCache
    from contrastive.clip_benchmark import Subject
    from contrastive.model import ContrastiveModel
    from contrastive.spec import RunSpec

UNFOLDED = 10_000  # columns of a table that goes to a pipe: a row is a line, for grep

app = typer.Typer(
    help="Contrastive learning from a typed spec.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A run's spec, in YAML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[A.B=VALUE]...", help="Changes to the spec.")
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="A run, a saved model, or a pretrained one (hf:OWNER/NAME); else $CONTRASTIVE_MODEL, "
        "else the newest run in runs/.",
    ),
]
Split = Annotated[str | None, typer.Option(help="The split of the run's data.")]
Trusted = Annotated[
    bool, typer.Option("--trusted", help="The model is your own: import paths in it are followed.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOf = Annotated[Path | None, typer.Option(help="Take the data of this run's spec instead.")]
Export = Annotated[
    Path | None,
    typer.Option(
        "--clip-benchmark",
        metavar="FOLDER",
        help="Also write a JSON file for each task, as CLIP_benchmark does.",
    ),
]


@app.command()
def train(
    spec: SpecFile,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model: heads, towers or both, as the spec says."""
    run = _load_run(spec, overrides)
    from contrastive.train import train as start

    folder = output or run.output or Path("runs") / spec.stem
    start(run, folder, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        _print({"model": str(folder / "model")}, as_json, f"saved: {folder / 'model'}")


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
    folder = _find(model)
    run = _load_run(spec) if spec else _run_of(folder, trusted=trusted, remedy="--spec")
    loaded = _load(folder, device, trusted=trusted)
    from contrastive.clip_benchmark import dataset_name, evaluation_results
    from contrastive.evaluate import evaluate as measure

    split = split or run.evaluation.final_split
    report = measure(
        loaded,
        run.data.build(split),
        split=split,
        templates=run.evaluation.templates,
        cache=_cache_for(folder),
        workers=run.training.workers,
    )
    from contrastive.progress import say
    from contrastive.tables import report_tables

    for fault in report.faults:
        say(fault)
    results = evaluation_results(report, _subject(folder, dataset_name(run.data), split))
    _export(results, export)
    data = report.as_dict() | {"clip_benchmark": results}
    _print(data, as_json, *report_tables(report))


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
    folder = _find(model)
    run = _load_run(spec) if spec else _run_of(folder, trusted=trusted, remedy="--spec")
    loaded = _load(folder, device, trusted=trusted)
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
        cache=_cache_for(folder),
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
    _print(report.as_dict() | {"clip_benchmark": results}, as_json, probe_table(report))


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
    folder = _find(model)
    loaded = _load(folder, device, trusted=trusted)
    from contrastive.clip_benchmark import pair_results
    from contrastive.pair_accuracy import pair_accuracy
    from contrastive.progress import say
    from contrastive.tables import pairs_table

    found = [pair_accuracy(loaded, some, cache=_cache_for(folder)) for some in read]
    for fault in (fault for one in found for fault in one.faults):
        say(fault)
    results = [
        result for one in found for result in pair_results(one, _subject(folder, one.name, "test"))
    ]
    _export(results, export)
    data = {"pairs": [one.as_dict() for one in found], "clip_benchmark": results}
    _print(data, as_json, pairs_table(found))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    classes: Annotated[str, typer.Option(help="The names, joined by commas.")],
    template: Annotated[
        list[str] | None, typer.Option(help="A sentence with {} for the name; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Names shown for each picture.")] = 5,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say which of the names each picture goes with."""
    from contrastive.spec import TEMPLATES

    names = [name.strip() for name in classes.split(",") if name.strip()]
    folder = _find(model)
    loaded = _load(folder, device, trusted=trusted)
    from contrastive.zero_shot import classify as probabilities_of

    probabilities = probabilities_of(
        loaded, images, names, templates=template or TEMPLATES, cache=_cache_for(folder)
    )
    rows = cast("list[list[float]]", probabilities.tolist())
    results = [
        {"image": str(image), "probabilities": dict(zip(names, row, strict=True))}
        for image, row in zip(images, rows, strict=True)
    ]
    from contrastive.tables import classes_table

    _print(results, as_json, classes_table(results, top))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words, or the path of a picture.")],
    images: Annotated[Path | None, typer.Option(help="Search this folder of pictures.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Search this file, a text a line.")] = None,
    split: Split = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find pictures by words, or texts by a picture: exact, best first."""
    folder = _find(model)
    loaded = _load(folder, device, trusted=trusted)
    from contrastive.search import candidates, find
    from contrastive.tables import hits_table

    def data() -> Sequence[dict[str, Any]]:
        from contrastive.stream import rows_of

        run = _run_of(folder, trusted=trusted, remedy="--images or --texts")
        return rows_of(run.data.build(split or run.evaluation.final_split))

    among = candidates(query, images=images, texts=texts, data=data)
    hits = find(loaded, query, among, k=k, cache=_cache_for(folder))
    _print(hits, as_json, hits_table(hits))


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a run, and what to do: exit code 1 if anything is, 0 if nothing."""
    from contrastive.doctor.runs import examine, figures_of
    from contrastive.progress import say

    figures = figures_of(run)
    try:
        spec = _run_of(run, trusted=trusted, remedy="--spec")
    except ContrastiveError as error:
        spec = None
        say(f"its data are not looked at: {error}")
    found, unseen = examine(run, spec)
    for line in unseen:
        say(line)
    counts = {"steps": len(figures.steps), "evaluations": len(figures.measured)}
    early = "" if figures.enough else "; too few steps to judge the loss"
    healthy = f"{run}: nothing found in {counts['steps']} steps{early}"
    told = [f"{run}: {finding.code}: {finding.sentence}" for finding in found] or [healthy]
    findings = [finding.as_dict() for finding in found]
    _print({"run": str(run), **counts, "findings": findings}, as_json, *told)
    if found:
        raise typer.Exit(1)


@app.command()
def validate(spec: SpecFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a spec without building anything."""
    run = _load_any(spec, overrides)
    _print(run.model_dump(mode="json"), as_json, f"{spec}: ok")


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    of: Annotated[str, typer.Option(help="run or model.")] = "run",
) -> None:
    """Print the JSON schema of a spec with everything installed, for editors."""
    from contrastive.schema import json_schema
    from contrastive.spec import REGISTRIES, ModelSpec, RunSpec

    if of not in ("run", "model"):
        msg = f"--of {of!r}: write run or model"
        raise SpecError(msg)
    text = json.dumps(json_schema(RunSpec if of == "run" else ModelSpec, *REGISTRIES), indent=2)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    else:
        typer.echo(text)


@app.command()
def plugins(as_json: Json = False) -> None:
    """List every component: name, kind, package, version, state."""
    from contrastive.schema import listing
    from contrastive.spec import REGISTRIES
    from contrastive.tables import plugins_table

    found = listing(*REGISTRIES)
    _print(found, as_json, plugins_table(found))


def main() -> None:
    """Run the command line."""
    # threads that spin while they wait make a shared machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # a name or a caption may hold what the encoding of the terminal lacks
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    run_guarded(app)


def run_guarded(work: Callable[[], Any]) -> None:
    """Do ``work``; a user's mistake ends the process with its message and exit code 2."""
    try:
        work()
    except ContrastiveError as error:
        _end(str(error), getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is on disk is whole, and features are kept\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # the disk is full, or a folder may not be written
        if not error.strerror:
            raise
        _end(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(printable(message) + "\n")
    sys.exit(code)


def _load_run(path: Path, overrides: list[str] | None = None) -> RunSpec:
    from contrastive.files import load
    from contrastive.spec import RunSpec

    return load(RunSpec, path, overrides or ())


def _load_any(path: Path, overrides: list[str] | None) -> Any:
    """Load a run's or a model's spec, whichever the file holds."""
    from contrastive.files import load, read_yaml
    from contrastive.spec import ModelSpec, RunSpec

    is_model = "towers" in read_yaml(path)[0]
    return load(ModelSpec if is_model else RunSpec, path, overrides or ())


def _find(model: Path | None) -> Path:
    """Return the folder of the model that is meant."""
    if chosen := model or os.environ.get("CONTRASTIVE_MODEL"):
        return Path(chosen)
    kinds = ("model", "checkpoints")  # a run that failed early has neither
    runs = {path.parent for kind in kinds for path in Path("runs").glob(f"*/{kind}")}
    if not runs:
        msg = "no model: give --model FOLDER, or train one with: contrastive train SPEC.yaml"
        raise WeightsError(msg)
    newest = max(runs, key=lambda path: path.stat().st_mtime)
    from contrastive.progress import say

    say(f"model: {newest}")
    return newest


def _load(folder: Path, device: str, *, trusted: bool) -> ContrastiveModel:
    from contrastive.model import load_model, pick_device

    there = pick_device(device)
    return load_model(folder, trusted=trusted).to(there)


def _cache_for(folder: Path) -> FeatureCache | None:
    """Return the user's cache, unless the run that made the model went without."""
    from contrastive.cache import FeatureCache
    from contrastive.files import read_yaml
    from contrastive.model import find_model

    path = find_model(folder) / "run.json"
    off = path.exists() and read_yaml(path)[0]["training"]["cache"] == "off"
    return None if off else FeatureCache()


def _run_of(folder: Path, *, trusted: bool, remedy: str) -> RunSpec:
    """Return the spec of the run that made a model."""
    from contrastive.files import load
    from contrastive.model import find_model
    from contrastive.spec import RunSpec

    path = find_model(folder) / "run.json"
    if not path.exists():
        msg = f"{folder}: holds a model without a run, so without data; give {remedy}"
        raise DataError(msg)
    return load(RunSpec, path, trusted=trusted)


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


def _print(data: Any, as_json: bool, *shown: Table | str) -> None:
    """Print the result for a machine or for a person."""
    if as_json:
        typer.echo(json.dumps(data, indent=1))  # ASCII, whatever the encoding of the reader
        return
    for part in shown:
        if isinstance(part, str):
            typer.echo(printable(part))  # not folded, so that a path stays whole
        else:
            from rich.console import Console

            width = None if sys.stdout.isatty() else UNFOLDED
            Console(highlight=False, width=width).print(part)


if __name__ == "__main__":
    main()
