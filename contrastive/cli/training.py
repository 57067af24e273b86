"""The verbs that train, and look at a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import load_run, run_of
from contrastive.cli.options import Json, Overrides, SpecFile, Trusted, app
from contrastive.cli.output import show
from contrastive.errors import ContrastiveError


@app.command()
def train(
    spec: SpecFile,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model: heads, towers or both, as the spec says."""
    run = load_run(spec, overrides)
    from contrastive.training.train import train as start

    folder = output or run.output or Path("runs") / spec.stem
    start(run, folder, resume=resume)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        show({"model": str(folder / "model")}, as_json, f"saved: {folder / 'model'}")


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a run, and what to do: exit code 1 if anything is, 0 if nothing."""
    from contrastive.console import say
    from contrastive.doctor.runs import examine, figures_of

    figures = figures_of(run)
    try:
        spec = run_of(run, trusted=trusted, remedy="--spec")
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
    show({"run": str(run), **counts, "findings": findings}, as_json, *told)
    if found:
        raise typer.Exit(1)
