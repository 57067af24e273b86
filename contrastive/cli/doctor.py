"""``contrastive doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Json, Trusted
from contrastive.cli.output import show
from contrastive.errors import ContrastiveError


def doctor(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="The folder of a run; else the newest in runs/."),
    ] = None,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong with a run and how to fix it; exit code 1 if there are findings."""
    from contrastive.console import say_omission
    from contrastive.doctor.runs import examine, run_log_of

    context = Context(run, trusted=trusted)
    run = context.folder
    log = run_log_of(run)
    try:
        spec = context.run(remedy="the folder of its run")
    except ContrastiveError as error:
        spec = None
        say_omission(f"its data are not checked: {error}")
    found, unseen = examine(run, spec)
    for line in unseen:
        say_omission(line)
    counts = {"steps": len(log.steps), "evaluations": len(log.measured)}
    early = "" if log.enough else "; too few steps to judge the loss"
    healthy = f"{run}: nothing found in {counts['steps']} steps{early}"
    told = [f"{run}: {finding.code}: {finding.sentence}" for finding in found] or [healthy]
    findings = [finding.as_dict() for finding in found]
    show({"run": str(run), **counts, "findings": findings}, as_json, *told)
    if found:
        raise typer.Exit(1)
