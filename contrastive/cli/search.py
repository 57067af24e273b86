"""``contrastive search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Changes, Data, Device, Json, MinPrecision, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.errors import SpecError


def search(
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="Words, or the path of an image.")
    ] = None,
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
    compose: Annotated[
        bool,
        typer.Option(
            "--compose", help="Add and subtract queries: '\"red car\" + dog.jpg - 0.5*night'."
        ),
    ] = False,
    like: Annotated[
        bool, typer.Option("--like", help="QUERY is a row of the index: more like it.")
    ] = False,
    duplicates: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE", min=-1, max=1, help="Pairs of the index that are so near, no QUERY."
        ),
    ] = None,
    outliers: Annotated[
        bool, typer.Option("--outliers", help="Rows of the index that are far from all, no QUERY.")
    ] = False,
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
    if index and (data or images or texts or split):
        msg = f"--index {index}: give it, or --data, --images or --texts, not both"
        raise SpecError(msg)
    if where and not index:
        msg = "--where: conditions are on the columns of an index; give --index INDEX, too"
        raise SpecError(msg)
    among = {"--like": like, "--duplicates": duplicates is not None, "--outliers": outliers}
    if chosen := [name for name, is_given in among.items() if is_given]:
        more = compose or query_modality is not None or min_precision is not None
        if not index or len(chosen) > 1 or more or like != (query is not None):
            needs = "QUERY and --index INDEX" if like else "--index INDEX and no QUERY"
            msg = f"{chosen[-1]}: needs {needs}, and is given alone"
            raise SpecError(msg)
        from contrastive.cli.index_neighbours import show_neighbours

        show_neighbours(
            index, query, duplicates, find=find, where=where or (), k=k, as_json=as_json
        )
        return
    if query is None:
        msg = "it is missing; give words, or the path of an image"
        raise typer.BadParameter(msg, param_hint="QUERY")
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
        if index
        else lambda: context.samples(split, data, remedy="--data, --images, --texts or --index"),
        index=opened,
        where=where or (),
        find=find,
        query_modality=query_modality,
        compose=compose,
        k=k,
        min_precision=min_precision,
        cache=context.cache,
    )
    show([hit.as_dict() for hit in hits], as_json, *([hits_table(hits)] if hits else ()))
