"""The verbs about datasets: what is done with data before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.options import Json, Trusted
from contrastive.cli.output import show
from contrastive.cli.parsing import Verb

data = typer.Typer(no_args_is_help=True, help="Datasets: store them in another form.")


@data.command(cls=Verb)
def shard(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A run's spec, a folder, or type=...,folder=...")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where the shards go; may be an address."
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Splits to write, joined by +; else all that there are.")
    ] = None,
    shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Most bytes of a shard, such as 512MB.")
    ] = "512MB",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Most samples of a shard; else as many as fit.")
    ] = None,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Write a dataset as tar shards in the format of WebDataset; goes on where it was."""
    from contrastive.cli.context import named_data
    from contrastive.config.amounts import shown_bytes
    from contrastive.curation.shard_data import shard_data
    from contrastive.spec import RunSpec

    named = named_data(data, trusted=trusted)
    config = named.data if isinstance(named, RunSpec) else named
    written = shard_data(config, output, split=split, shard_size=shard_size, samples=samples)
    lines: list[str] = []
    for name, counts in written["splits"].items():
        shards = [one for one in written["shards"] if one["split"] == name]
        size = shown_bytes(sum(one["bytes"] for one in shards))
        what = f"{counts['samples']:,} samples, {counts['rows']:,} rows"
        several = f"{len(shards):,} shard{'s' if len(shards) > 1 else ''}"
        lines.append(f"{name}: {what} in {several}, {size}")
    shown = {"folder": str(output), "splits": written["splits"], "shards": written["shards"]}
    show(shown, as_json, *lines, f"saved: {output}")
