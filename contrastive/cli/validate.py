"""``contrastive validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contrastive.cli.context import Context, load_any, load_run
from contrastive.cli.options import Json, Overrides, Trusted
from contrastive.cli.output import show
from contrastive.config.entry_points import disable_entry_point_scans
from contrastive.console import say_omission
from contrastive.errors import MissingExtra, SpecError


def validate(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC", help="A spec in YAML, or a run or a saved model.")
    ],
    overrides: Overrides = None,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Rewrite it with the names of this release."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the upgraded spec here, not over the old one."),
    ] = None,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory", help="Estimate the memory of a training step; builds the model, reads data."
        ),
    ] = False,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Check a spec without building anything, unless --memory asks for it."""
    if memory and upgrade:
        msg = "--memory and --upgrade: give one at a time"
        raise SpecError(msg)
    if overrides and (upgrade or spec.is_dir()):
        msg = f"override {overrides[0]!r}: {spec} is taken as it is; leave the override out"
        raise SpecError(msg)
    if output and (spec.is_dir() or not upgrade):
        msg = f"--output {output}: only a spec that is upgraded is written there; leave it out"
        raise SpecError(msg)
    if memory or spec.is_dir():
        disable_entry_point_scans()
    if memory:
        _memory(spec, overrides, trusted, as_json)
    elif spec.is_dir():
        _stored(spec, upgrade, trusted, as_json)
    elif upgrade:
        _upgrade_spec(spec, output or spec, trusted, as_json)
    else:
        checked = load_any(spec, overrides, trusted=trusted)
        _check_trackers(checked, spec)
        show(checked.model_dump(mode="json"), as_json, f"{spec}: ok")


def _check_trackers(spec: Any, path: Path) -> None:
    """Tell of trackers whose package is not installed; a run would go on without them."""
    for number, tracker in enumerate(spec.training.trackers if hasattr(spec, "training") else ()):
        try:
            tracker.check()
        except MissingExtra as error:
            say_omission(f"{path}: training.trackers.{number}: {error}")


def _memory(path: Path, overrides: list[str] | None, trusted: bool, as_json: bool) -> None:
    """Estimate what a training step takes."""
    if path.is_dir():
        run = Context(path, trusted=trusted).run(remedy="a run, or its spec")
    else:
        run = load_run(path, overrides)
    from contrastive.reporting.tables import memory_table
    from contrastive.training.memory import NOT_COUNTED
    from contrastive.training.memory_plan import gib, spec_memory

    found, how = spec_memory(run)
    parts = [(name, gib(amount), known) for name, amount, known in found.parts()]
    process: list[str] = []
    if found.process:
        in_all = f"about {gib(found.process)}"
        process = [f"the process: {in_all}, with Python, torch and the copy of a checkpoint"]
    show(
        found.as_dict() | {"how": how, "not_counted": NOT_COUNTED},
        as_json,
        memory_table(parts),
        f"peak: {gib(found.peak)} for a batch of {found.rows}, at {found.moment} ({how})",
        *process,
        f"not counted: {NOT_COUNTED}",
    )


def _stored(folder: Path, upgrade: bool, trusted: bool, as_json: bool) -> None:
    """Check or upgrade what is saved in a folder."""
    from contrastive.model.upgrade import saved_folders, upgrade_folder

    saved_folders(folder)
    if not upgrade:
        context = Context(folder, trusted=trusted)
        found = context.run() if context.has_run else context.spec
        show(found.model_dump(mode="json"), as_json, f"{folder}: ok")
        return
    from contrastive.model.saved_folder import MANIFEST

    done = upgrade_folder(folder, trusted=trusted)
    rows = [{"folder": str(one.folder), "release": one.release, "files": one.files} for one in done]
    lines = [
        f"upgraded: {one.folder}, of release {one.release}: {', '.join([*one.files, MANIFEST])}"
        for one in done
    ]
    show(rows, as_json, *(lines or [f"{folder}: has the names of this release"]))


def _upgrade_spec(path: Path, output: Path, trusted: bool, as_json: bool) -> None:
    from contrastive.config.stored import MANIFEST, SPECS
    from contrastive.config.upgrade import upgrade_file
    from contrastive.data.storage.folders import check_writable
    from contrastive.spec import kind_of_spec

    if path.name in SPECS and (path.parent / MANIFEST).exists():  # which has the file's SHA-256
        msg = f"{path}: is of a saved model; run: contrastive validate --upgrade {path.parent}"
        raise SpecError(msg)
    check_writable(output, what="upgraded spec")
    found = upgrade_file(kind_of_spec, path, output, trusted=trusted or None)
    rows: list[dict[str, Any]] = [
        {"field": ".".join(old.key_path), "now": old.new.name, "release": old.new.until}
        for old in found
    ]
    if not found:
        unwritten = "" if output == path else f"; {output} is not written"
        show(rows, as_json, f"{path}: has the names of this release{unwritten}")
        return
    release = max(old.new.until for old in found)
    told = [f"{path}: of release {release}", *map(str, found), f"written: {output}"]
    show(rows, as_json, *told)
