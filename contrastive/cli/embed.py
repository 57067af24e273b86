"""``contrastive embed``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from contrastive.cli.context import Context
from contrastive.cli.engines import check_engine, encoder
from contrastive.cli.options import (
    Changes,
    Device,
    Engine,
    GivenData,
    Json,
    Model,
    Processes,
    Split,
    Trusted,
)
from contrastive.cli.output import show


def embed(
    data: GivenData,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the embeddings go.")
    ],
    split: Split = None,
    *,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Truncate embeddings to this dimension (Matryoshka).")
    ] = None,
    quantize: Annotated[
        Literal["int8", "binary"] | None,
        typer.Option(help="Quantize the embeddings to int8 or to their signs (binary)."),
    ] = None,
    processes: Processes = 1,
    engine: Engine = "local",
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed a dataset into safetensors and Parquet, for any tool; goes on where it was."""
    check_engine(engine)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    run = context.run(data, remedy="DATA")
    samples = context.build(run, split or run.evaluation.final_split, remedy="DATA")
    encode = encoder(context, processes, engine)
    if encode is None:
        from contrastive.data.worker_processes import worker_count
        from contrastive.inference.embed import embed as write

        workers = worker_count(run.training.workers)
        written = write(
            context.model,
            samples,
            output,
            dim=dim,
            quantize=quantize,
            cache=context.cache,
            workers=workers,
        )
    else:
        from contrastive.inference.embed import plan_embedding

        plan = plan_embedding(context.model, samples, output, dim=dim, quantize=quantize)
        encode(plan)
        written = plan.folder
    rows = {modality: written.rows(modality) for modality in written.modalities}
    about: dict[str, Any] = {"folder": str(output), "rows": rows}
    lines = [f"saved: {output}"]
    if dim or quantize:
        from contrastive.evaluation.stored_recall import recall_as_stored

        found = recall_as_stored(context.model, samples, written.form, cache=context.cache)
        about["recall"] = [asdict(one) for one in found]
        lines += [str(one) for one in found] or ["what is lost was not measured: nothing to find"]
    show(about, as_json, *lines)
