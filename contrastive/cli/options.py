"""The command, and the options that several verbs have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from contrastive.cli.parsing import Verbs
from contrastive.config.entry_points import (
    NO_PYDANTIC_PLUGINS,
    SWITCH,
    disable_entry_point_scans,
)

app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, distribution

    import contrastive

    typer.echo(f"contrastive-kit {contrastive.__version__} ({Path(contrastive.__file__).parent})")
    try:
        other = distribution("contrastive")
    except PackageNotFoundError:
        raise typer.Exit from None
    typer.echo(
        f"contrastive {other.version} is installed too: another project (contrastive PCA) with the "
        "same import name; run: pip uninstall contrastive; pip install --force-reinstall "
        "--no-deps contrastive-kit",
        err=True,
    )
    raise typer.Exit(1)


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    no_plugins: Annotated[
        bool,
        typer.Option(
            "--no-plugins",
            help="Disable every plugin; CONTRASTIVE_PLUGINS=a,b in the environment keeps a, b.",
        ),
    ] = False,
) -> None:
    """Contrastive learning from a typed spec."""
    del version  # printed by its callback
    # none is for specs, and pydantic would look for them in every package
    for name, value in NO_PYDANTIC_PLUGINS.items():
        os.environ.setdefault(name, value)
    if context.invoked_subcommand != "validate":  # most specs import nothing
        disable_entry_point_scans()
    if no_plugins:
        os.environ[SWITCH] = "none"  # processes that we start inherit it


Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")]
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
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=VALUE",
        help="Change the model's saved spec, for instance where weights are now: "
        "towers.text.encoder.name=FOLDER; may be repeated.",
    ),
]
Template = Annotated[
    list[str] | None, typer.Option(help="A prompt template with {} for the class; may be repeated.")
]
TemplateSet = Annotated[
    str | None,
    typer.Option(
        "--templates", metavar="SET", help="A set of templates by name, such as imagenet."
    ),
]
Split = Annotated[
    str | None, typer.Option(help="The split of the data; else the spec's evaluation.final_split.")
]
SharedRows = Annotated[
    Literal["refuse", "drop"] | None,  # as in contrastive.spec, which takes long to import
    typer.Option(
        help="Train/test leakage: refuse to evaluate, or drop shared samples; else the spec's.",
        show_default=False,
    ),
]
ClassesFile = Annotated[
    Path | None, typer.Option(help="A file with the names of the classes, one a line.")
]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted", help="The model or run is your own: allow import paths in what it saved."
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[
    float,
    typer.Option(min=0.1, max=86_400, help="Seconds that importing a plugin's module may take."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        help="A run's spec, a folder, or type=...,folder=...; else the data of the model's run.",
    ),
]
GivenData = Annotated[
    str, typer.Argument(metavar="DATA", help="A run's spec, a folder, or type=...,folder=...")
]
Processes = Annotated[int, typer.Option(min=1, help="Processes that embed, each with the model.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="What runs the processes: this machine, or a Ray cluster (extra ray)."),
]
MinPrecision = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        help="Only results of which this share is right, such as 0.9; needs contrastive calibrate.",
    ),
]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Also draw a plot into this .png, .svg or .pdf.")
]
Export = Annotated[
    Path | None,
    typer.Option(
        "--clip-benchmark",
        file_okay=False,
        metavar="FOLDER",
        help="Also write a JSON file for each task, as CLIP_benchmark does.",
    ),
]
