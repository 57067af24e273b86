"""The verbs about components: which there are, what one takes, whether it keeps its promises."""

from __future__ import annotations

import inspect
import shlex
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrastive.cli.options import Json, Limit
from contrastive.cli.output import show
from contrastive.cli.parsing import Verb
from contrastive.errors import DataError

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.testing import Verdict

plugins = typer.Typer(invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name, KIND/NAME, or an import path.")]


@plugins.callback()
def list_components(
    context: typer.Context,
    limit: Limit = 20.0,
    as_json: Json = False,
) -> None:
    """List every component, or show, check or make one.

    The list has kind, name, package, version, path and state (ok, broken,
    shadowed, ambiguous). Of each plugin it has the time that importing its
    module takes, and whether torch came along: both are measured in a fresh
    process that has imported the core.
    """
    if context.invoked_subcommand:
        return
    from contrastive.components import REGISTRIES
    from contrastive.config.entry_points import SWITCH
    from contrastive.console import bar, console, say
    from contrastive.plugin_tools.listing import listing, modules_of, unused_selections
    from contrastive.reporting.tables import plugins_table

    if idle := unused_selections(*REGISTRIES):
        say(f"{SWITCH} names {', '.join(idle)}, of which no component is installed")
    total = len(modules_of(*REGISTRIES))
    seen = console().is_terminal  # elsewhere, a second's wait is not worth a line
    with bar("importing plugins", total) if seen else nullcontext() as advance:
        found = [asdict(entry) for entry in listing(*REGISTRIES, limit=limit, advance=advance)]
    show(found, as_json, plugins_table(found))


@plugins.command("show", cls=Verb)
def show_component(name: Name, as_json: Json = False) -> None:
    """Print a component's fields with types, defaults and help."""
    from contrastive.config.field_docs import fields_of
    from contrastive.reporting.tables import fields_table

    cls = _component(name)
    about = _about(cls)
    fields = [
        {name: (text or "").replace("`", "") for name, text in asdict(row).items()}
        | {"default": row.default or "required"}
        for row in fields_of(cls)
    ]
    lines = [f"{key}: {value}" for key, value in about.items() if value and key != "about"]
    shown = [*lines, "", about["about"], ""] if about["about"] else [*lines, ""]
    table = [fields_table(fields)] if fields else ["It has no fields."]
    show(about | {"fields": fields}, as_json, *shown, *table)


@plugins.command(cls=Verb)
def check(
    name: Name,
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Its fields.")
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(help="Raw samples: files, or folders of them; for modalities of your own."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split of a dataset that is read.")] = "train",
    as_json: Json = False,
) -> None:
    """Build a component and run the kit for plugins on it: exit code 1 if a check fails."""
    from contrastive.config.yaml_files import load_fields
    from contrastive.reporting.tables import verdicts_table

    config = load_fields(_component(name), name, fields or ())
    from contrastive.testing import examine_component

    verdicts = examine_component(config, samples=_files(samples) or None, split=split)
    rows = [
        {"check": one.check, "outcome": _outcome(one), "why": one.problem or one.skipped or ""}
        for one in verdicts
    ]
    show(rows, as_json, verdicts_table(rows))
    if any(one.problem for one in verdicts):
        raise typer.Exit(1)


@plugins.command(cls=Verb)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What a spec will call it.")],
    kind: Annotated[str, typer.Option(help="encoder, head, loss or dataset.")],
    modality: Annotated[
        str | None,
        typer.Option(help="Of an encoder: image, text, or one of your own; by default image."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Its folder; else contrastive-NAME.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a package for a component of your own: it works and passes its tests as it is."""
    from contrastive.components import REGISTRIES
    from contrastive.config.lookup import of_kind
    from contrastive.plugin_tools.new_package import MODULES, new_package

    folder = output or Path(f"contrastive-{name}")
    made = [registry for registry in REGISTRIES if registry.interface.kind in MODULES]
    files = new_package(name, of_kind(kind, tuple(made)), modality=modality, folder=folder)
    written = {"folder": str(folder), "files": [str(file) for file in files]}
    steps = [
        f"cd {shlex.quote(str(folder))}",
        "python -m pip install --editable . pytest",
        "python -m pytest",
        "contrastive validate example.yaml",
    ]
    show(written, as_json, f"written: {folder} ({len(files)} files)", "next:", *steps)


def _component(name: str) -> type[Config]:
    from contrastive.components import REGISTRIES
    from contrastive.config.lookup import component

    return component(name, *REGISTRIES)


def _about(cls: type[Config]) -> dict[str, str]:
    from contrastive.config.provenance import package_of
    from contrastive.config.registry import path_of

    package, version = package_of(cls) or ("", "")
    return {
        "kind": cls.kind,
        "name": cls.registry.name_of(cls),
        "package": package,
        "version": version,
        "path": path_of(cls),
        "about": (inspect.getdoc(cls) or "").partition("\n\nExample:")[0],
    }


def _files(given: list[Path] | None) -> list[Path]:
    """Return the files that are given, and those of the folders that are."""
    for path in given or ():
        if not path.exists():
            msg = f"--samples {path}: no such file or folder"
            raise DataError(msg)
    return [
        file
        for path in given or ()
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if not file.name.startswith(".")
    ]


def _outcome(verdict: Verdict) -> str:
    return "failed" if verdict.problem else "skipped" if verdict.skipped else "passed"
