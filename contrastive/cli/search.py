"""``contrastive search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Data, Device, Json, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.errors import SpecError


def search(
    query: Annotated[str, typer.Argument(help="Words, or the path of an image.")],
    images: Annotated[Path | None, typer.Option(help="Search this folder of images.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Search this file, a text a line.")] = None,
    data: Data = None,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Search what index build has stored.")
    ] = None,
    split: Split = None,
    *,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Rows of the index whose column has a value: label=dog, id>=10, 'source=a/*'; may "
            "be repeated.",
        ),
    ] = None,
    find: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="Modality to search: image, text, ...")
    ] = None,
    query_modality: Annotated[
        str | None,
        typer.Option(metavar="MODALITY", help="Modality of the query, where it is ambiguous."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
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
    if index and (data or images or texts or split):
        msg = f"--index {index}: give it, or --data, --images or --texts, not both"
        raise SpecError(msg)
    if where and not index:
        msg = "--where: conditions are on the columns of an index; give --index INDEX, too"
        raise SpecError(msg)
    if data and Path(data).is_dir():
        from contrastive.datasets import ClassFolders
        from contrastive.datasets.bare_folder import dataset_in

        if isinstance(dataset_in(Path(data)), ClassFolders):
            images = Path(data)  # all of them, of whatever split
    about: dict[str, Any] = {"device": device, "trusted": trusted, "changes": changes}
    if index:
        from contrastive.cli.index_context import index_context
        from contrastive.indexes.index import Index

        opened = Index(index)
        context = index_context(opened, model, **about)
    else:
        opened, context = None, Context(model, **about)
    loaded = context.model
    from contrastive.inference.search import search as nearest
    from contrastive.reporting.tables import hits_table

    hits = nearest(
        loaded,
        query,
        images=images,
        texts=texts,
        samples=None
        if opened
        else lambda: context.samples(split, data, remedy="--data, --images, --texts or --index"),
        index=opened,
        where=where or (),
        find=find,
        query_modality=query_modality,
        k=k,
        cache=context.cache,
    )
    show([hit.as_dict() for hit in hits], as_json, hits_table(hits))
