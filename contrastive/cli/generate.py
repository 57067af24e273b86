"""``contrastive generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Device, Json, Model, Trusted
from contrastive.cli.output import show


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image should show.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The image: .png, .jpg, ...")],
    *,
    negative: Annotated[
        list[str] | None, typer.Option(help="What it should not show; may be repeated.")
    ] = None,
    size: Annotated[int, typer.Option(min=16, max=8192, help="Height and width in pixels.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 150,
    views: Annotated[int, typer.Option(min=1, max=1024, help="Random crops per step.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the initial noise and the crops.")] = 0,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate an image for a prompt by gradient ascent; Ctrl-C keeps the best so far."""
    from contrastive.data.images import SUFFIXES
    from contrastive.data.storage.folders import check_writable, named_file

    check_writable(output, SUFFIXES, what="image")  # before minutes of work
    loaded = Context(model, device=device, trusted=trusted, changes=changes).model
    from contrastive.inference.generation import generate as paint

    made = paint(
        loaded, prompt, size=size, steps=steps, seed=seed, views=views, negative=negative or ()
    )
    with named_file(output):
        made.image.save(output)
    done = len(made.history)
    result = {"image": str(output), "cosine": made.cosine, "before": made.before, "steps": done}
    line = f"saved: {output}; cosine {made.cosine:.3f}, of the noise before {made.before:.3f}"
    show(result, as_json, line)
