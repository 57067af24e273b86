"""``contrastive schema``."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.options import Limit
from contrastive.data.storage.folders import named_file
from contrastive.errors import SpecError


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file.")
    ] = None,
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
    with redirect_stderr(io.StringIO()):  # plugins that print when they are imported
        described = json_schema(spec, *REGISTRIES, without=without)
    text = json.dumps(described, indent=2)
    if output:
        with named_file(output):
            output.write_text(text + "\n", encoding="utf-8")
    else:
        typer.echo(text)
