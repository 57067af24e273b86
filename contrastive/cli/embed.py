"""``contrastive embed``."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Device, Json, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.config.extras import require
from contrastive.errors import DataError

if TYPE_CHECKING:
    from contrastive.features.cache import FeatureCache
    from contrastive.inference.embedding_folder import EmbeddingFolder
    from contrastive.model.model import ContrastiveModel


def embed(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A run's spec, a folder, or type=...,folder=...")
    ],
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
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that embed, each with the model.")
    ] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="What runs the processes: this machine, or a Ray cluster (extra ray)."),
    ] = "local",
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed a dataset into safetensors and Parquet, for any tool; goes on where it was."""
    if engine == "ray":  # told before the model is loaded
        require("ray", extra="ray")
    context = Context(model, device=device, trusted=trusted, changes=changes)
    run = context.run(data, remedy="DATA")
    samples = context.build(run, split or run.evaluation.final_split, remedy="DATA")
    if processes == 1 and engine == "local":
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
        written = plan.folder
        load = partial(
            load_again, context.folder, device, trusted, changes, model_state(context, written)
        )
        if engine == "ray":
            from contrastive.inference.embed_ray import embed_on_ray

            embed_on_ray(plan, processes, load, gpu=context.device.type == "cuda")
        else:
            from contrastive.inference.embed_processes import embed_in_processes

            embed_in_processes(plan, processes, load)
    rows = {modality: written.rows(modality) for modality in written.modalities}
    about: dict[str, Any] = {"folder": str(output), "rows": rows}
    lines = [f"saved: {output}"]
    if dim or quantize:
        from contrastive.evaluation.stored_recall import recall_as_stored

        found = recall_as_stored(context.model, samples, written.form, cache=context.cache)
        about["recall"] = [asdict(one) for one in found]
        lines += [str(one) for one in found] or ["what is lost was not measured: nothing to find"]
    show(about, as_json, *lines)


def model_state(context: Context, written: EmbeddingFolder | None = None) -> str:
    """Return what tells whether the model is still the same: its manifest, which has all hashes."""
    from contrastive.config.stored import MANIFEST
    from contrastive.nn.fingerprint import weights_fingerprint

    if context.saved:
        return (context.saved.path / MANIFEST).read_text(encoding="utf-8")
    return written.about.model if written else weights_fingerprint(context.model)


def load_again(
    folder: Path, device: str, trusted: bool, changes: list[str] | None, state: str
) -> tuple[ContrastiveModel, FeatureCache | None]:
    """Load the model in another process.

    Raises:
        DataError: it has changed since the first process has loaded it.
    """
    context = Context(folder, device=device, trusted=trusted, changes=changes)
    model = context.model
    if model_state(context) != state:
        msg = f"{folder}: the model has changed meanwhile; embed into another folder"
        raise DataError(msg)
    return model, context.cache
