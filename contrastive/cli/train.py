"""``contrastive train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import load_run
from contrastive.cli.options import Json, Overrides, SpecFile, Trusted
from contrastive.cli.output import show
from contrastive.distributed.launcher import is_main


def train(
    spec: SpecFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the run, or s3://..., gs://... to send it to; else runs/SPEC.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the newest checkpoint.")
    ] = False,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Train a model: heads, towers or both, as the spec says."""
    run = load_run(spec, overrides, trusted=trusted)
    from contrastive.training.run_folder import run_folder
    from contrastive.training.train import train as start

    default = Path("runs") / spec.stem
    folder, address = run_folder(output, run.output, default, file=spec)
    start(run, address or folder, resume=resume)
    if is_main():
        about = {"model": str(folder / "model")} | ({"output": address} if address else {})
        show(about, as_json, f"saved: {folder / 'model'}")
