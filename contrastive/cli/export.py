"""``contrastive export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Data, Json, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.console import say
from contrastive.errors import DataError, SpecError

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.exporters import Exported
    from contrastive.exporters.record import Record


def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the export goes.")
    ],
    to: Annotated[
        Literal["contrastive", "transformers", "sentence-transformers", "onnx"],
        typer.Option(
            help="The program that is to open the folder; contrastive is this one, and gets all "
            "that the model needs."
        ),
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
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="For the model card, such as apache-2.0."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the folder to the Hugging Face Hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push: a new repository is private.")
    ] = False,
    changes: Changes = None,
    trusted: Trusted = False,
    as_json: Json = False,
) -> None:
    """Write the model as a folder that another program opens, and compare its embeddings there."""
    from contrastive.exporters import check_export
    from contrastive.exporters import export as write
    from contrastive.exporters.folder import check_is_model, check_place
    from contrastive.model.hub import check_repository

    check_place(output)
    context = Context(model, device="cpu", trusted=trusted, changes=changes)
    check_is_model(context.folder)
    if private and not push:
        msg = "--private: is of a repository; give it by --push OWNER/NAME"
        raise SpecError(msg)
    loaded = context.model
    check_export(loaded, to, tower=tower, int8=int8)  # before minutes of measuring
    if push:  # no repository is made for an export that is refused
        push = check_repository(push, private=private or None, token=None)
    samples = _samples(context, split, data)
    record = _record(context, samples, split, data, licence)
    done = write(
        loaded,
        to,
        output,
        samples=samples,
        tower=tower,
        keep_samples=not no_samples,
        int8=int8,
        record=record,
        repo_id=push,
    )
    address = done.push_to_hub(push, private=private or None) if push else None
    lines = _lines(done, kept=not no_samples)
    if address:
        lines.append(f"pushed: {address}")
    show(_about(done) | {"pushed": address}, as_json, *lines)


def _record(
    context: Context,
    samples: Samples | None,
    split: str | None,
    data: str | None,
    licence: str | None,
) -> Record:
    """Return what the model card says: measured now, and written down by the run."""
    from contrastive.data.worker_processes import worker_count
    from contrastive.exporters.record import Record, measured, run_log
    from contrastive.model.run_checkpoints import step_in

    own = context.run() if context.has_run else None
    run = context.run(data) if data else own
    step = step_in(context.saved.path.name) if context.saved else None
    known = Record(
        run=own,
        data=run.data if run else None,
        step=step,
        log=run_log(context.folder, step=step),
        licence=licence,
    )
    if not licence:
        say("the model card names no licence; to name one: --license apache-2.0")
    if samples is None or run is None:
        return replace(known, why_not="its data are not here")
    settings = context.evaluation
    try:
        found = measured(
            context.model,
            samples,
            split=split or run.evaluation.final_split,
            templates=settings.templates,
            shared=settings.shared,
            cache=context.cache,
            workers=worker_count(run.training.workers),
        )
    except DataError as error:
        if split or data:
            raise
        say(f"the model card has no figures: {error}")
        return replace(known, why_not=str(error))
    return replace(known, report=found.report, truncated=found.truncated)


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
