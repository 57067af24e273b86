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
        help="A run or a saved model; else $CONTRASTIVE_MODEL, else the newest run in runs/.",
    ),
]
Split = Annotated[str | None, typer.Option(help="The split of the run's data.")]
Trusted = Annotated[
    bool, typer.Option("--trusted", help="The model is your own: import paths in it are followed.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    _print({"model": str(folder / "model")}, as_json, f"saved: {folder / 'model'}")


@app.command()
def evaluate(
    model: Model = None,
    split: Split = None,
    spec: Annotated[
        Path | None, typer.Option(help="Take the data of this run's spec instead.")
    ] = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure retrieval both ways, and zero-shot accuracy if the data have classes."""
    folder = _find(model)
    run = _load_run(spec) if spec else _run_of(folder, trusted=trusted, remedy="--spec")
    loaded = _load(folder, device, trusted=trusted)
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
    _print(report.as_dict(), as_json, *report_tables(report))


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
