"""``contrastive export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Data, Json, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.console import say
from contrastive.errors import DataError

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.exporters import Exported


def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the export goes.")
    ],
    to: Annotated[
        Literal["transformers", "sentence-transformers", "onnx"],
        typer.Option(help="The program that is to open the folder."),
    ],
    *,
    model: Model = None,
    tower: Annotated[
        str | None,
        typer.Option(metavar="MODALITY", help="Export this tower alone, such as text."),
    ] = None,
    split: Split = None,
    data: Data = None,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Leave no samples of the data in the folder.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="With onnx: write smaller files, too, and measure their recall."
        ),
    ] = False,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Write the model as a folder that another program opens, and compare its embeddings there."""
    from contrastive.exporters import export as write
    from contrastive.exporters.folder import check_is_model, check_place

    check_place(output)
    context = Context(model, device="cpu", trusted=trusted)
    check_is_model(context.folder)
    loaded = context.model
    samples = _samples(context, split, data)
    done = write(
        loaded,
        to,
        output,
        samples=samples,
        tower=tower,
        keep_samples=not no_samples,
        int8=int8,
    )
    show(_about(done), as_json, *_lines(done, kept=not no_samples))


def _samples(context: Context, split: str | None, data: str | None) -> Samples | None:
    """Return a split of the data; None where the model has no data that are there."""
    if data is None and split is None:
        if not context.has_run:
            say(f"{context.folder}: holds no data, so generated samples are compared")
            return None
        try:
            return context.samples(None, remedy="--data")
        except DataError as error:
            say(f"{error}; until then, generated samples are compared")
            return None
    return context.samples(split, data, remedy="--data")


def _about(done: Exported) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "to": done.to,
        "differences": dict(done.differences),
        "samples": dict(done.samples),
        "held_out": done.held_out,
        "notes": [*done.notes],
        "usage": done.usage,
    }


def _lines(done: Exported, *, kept: bool) -> list[str]:
    differ = ", ".join(f"{modality} {x:.1e}" for modality, x in done.differences.items())
    counts = ", ".join(f"{n} {modality}" for modality, n in done.samples.items())
    which = "held-out" if done.held_out else "generated"
    lines = [
        f"written: {done.folder}",
        f"largest difference in {done.to}: {differ} (of {counts} samples, {which})",
        *done.notes,
    ]
    if done.held_out and kept:
        lines.append(f"{done.folder / 'verify'} holds these samples; --no-samples leaves them out")
    return [*lines, "to load it:", *(f"  {line}" for line in done.usage.splitlines())]
