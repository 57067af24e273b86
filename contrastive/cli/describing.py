"""The verbs that say what there is: they compute nothing."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated

import typer

from contrastive.cli.context import load_any
from contrastive.cli.options import Json, Limit, Overrides, SpecFile, app
from contrastive.cli.output import show
from contrastive.errors import SpecError


@app.command()
def validate(spec: SpecFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a spec without building anything."""
    run = load_any(spec, overrides)
    show(run.model_dump(mode="json"), as_json, f"{spec}: ok")


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    of: Annotated[str, typer.Option(help="run or model.")] = "run",
    limit: Limit = 20.0,
) -> None:
    """Print the JSON schema of a spec with everything installed, for editors."""
    from contrastive.components import REGISTRIES
    from contrastive.config.json_schema import json_schema
    from contrastive.plugin_tools.listing import failing_imports
    from contrastive.spec import ModelSpec, RunSpec

    if of not in ("run", "model"):
        msg = f"--of {of!r}: write run or model"
        raise SpecError(msg)
    spec = RunSpec if of == "run" else ModelSpec
    without = failing_imports(*REGISTRIES, limit=limit)
    with redirect_stderr(io.StringIO()):  # plugins that greet whoever imports them
        described = json_schema(spec, *REGISTRIES, without=without)
    text = json.dumps(described, indent=2)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    else:
        typer.echo(text)
