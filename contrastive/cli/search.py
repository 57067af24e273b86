"""``contrastive search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Data, Device, Json, MinPrecision, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.errors import SpecError


def search(
    query: Annotated[str, typer.Argument(help="Words, or the path of an image.")],
    images: Annotated[Path | None, typer.Option(help="Search this folder of images.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Search this file, a text a line.")] = None,
    data: Data = None,
    split: Split = None,
    *,
    find: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="Modality to search: image, text, ...")
    ] = None,
    query_modality: Annotated[
        str | None,
        typer.Option(metavar="MODALITY", help="Modality of the query, where it is ambiguous."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
    min_precision: MinPrecision = None,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Exact nearest-neighbour search: images by words, texts by an image, any modality by any."""
    if data and (images or texts):
        msg = f"--data {data}: give it, or --images or --texts, not both"
        raise SpecError(msg)
    if data and Path(data).is_dir():
        from contrastive.datasets import ClassFolders
        from contrastive.datasets.bare_folder import dataset_in

        if isinstance(dataset_in(Path(data)), ClassFolders):
            images = Path(data)  # all of them, of whatever split
    context = Context(model, device=device, trusted=trusted, changes=changes)
    loaded = context.model
    from contrastive.inference.search import search as nearest
    from contrastive.reporting.tables import hits_table

    hits = nearest(
        loaded,
        query,
        images=images,
        texts=texts,
        samples=lambda: context.samples(split, data, remedy="--data, --images or --texts"),
        find=find,
        query_modality=query_modality,
        k=k,
        min_precision=min_precision,
        cache=context.cache,
    )
    show([hit.as_dict() for hit in hits], as_json, hits_table(hits))
