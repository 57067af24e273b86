"""The verbs about an index: stored embeddings, which ``search --index`` looks through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contrastive.cli.engines import check_engine, encoder
from contrastive.cli.options import (
    Changes,
    Device,
    Engine,
    GivenData,
    Json,
    Model,
    Processes,
    Trusted,
)
from contrastive.cli.output import show
from contrastive.cli.parsing import Verb

if TYPE_CHECKING:
    from contrastive.indexes.index import Index
    from contrastive.inference.index_building import IndexChange

index = typer.Typer(
    no_args_is_help=True, help="Build, change or show an index, for search --index."
)

Output = Annotated[Path, typer.Option("--output", "-o", metavar="INDEX", help="The index.")]
IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index.")]
IndexSplit = Annotated[
    str | None,
    typer.Option(help="The split of the data; else all, of a spec its evaluation.final_split."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Rows whose column has a value: label=dog, id>=10, 'source=a/*'; may be repeated.",
    ),
]


@index.command(cls=Verb)
def build(
    data: GivenData,
    output: Output,
    split: IndexSplit = None,
    *,
    backend: Annotated[
        Literal["exact", "faiss", "faiss-ivf"] | None,
        typer.Option(help="How it is searched: exact (a new index), or by faiss; else as it was."),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            min=1, help="Find candidates by the first numbers of the vectors (Matryoshka)."
        ),
    ] = None,
    quantize: Annotated[
        Literal["int8", "binary"] | None,
        typer.Option(help="Find candidates by small copies of the vectors: int8, or their signs."),
    ] = None,
    processes: Processes = 1,
    engine: Engine = "local",
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed a dataset into an index; goes on where it was, and never embeds a sample again."""
    from contrastive.cli.context import Context
    from contrastive.cli.index_context import given_data, place_of

    check_engine(engine)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    given = given_data(context, data, split, output)
    from contrastive.inference.index_building import build_index

    change = build_index(
        context.model,
        given.read(),
        output,
        data=given.about,
        model_folder=place_of(context),
        backend=backend,
        dim=dim,
        quantize=quantize,
        workers=given.workers,
        cache=context.cache,
        encode=encoder(context, processes, engine),
    )
    _show_change(change, as_json)


@index.command(cls=Verb)
def add(
    data: GivenData,
    output: Output,
    split: IndexSplit = None,
    *,
    processes: Processes = 1,
    engine: Engine = "local",
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Add other data to an index."""
    from contrastive.cli.index_context import given_data, index_context
    from contrastive.indexes.index import Index

    check_engine(engine)
    context = index_context(Index(output), model, device=device, trusted=trusted, changes=changes)
    given = given_data(context, data, split, output)
    from contrastive.inference.index_building import add_to_index

    change = add_to_index(
        context.model,
        given.read(),
        output,
        data=given.about,
        workers=given.workers,
        cache=context.cache,
        encode=encoder(context, processes, engine),
    )
    _show_change(change, as_json)


@index.command(cls=Verb)
def update(
    folder: IndexFolder,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="DATA", help="Where the data are now, if elsewhere."),
    ] = None,
    *,
    processes: Processes = 1,
    engine: Engine = "local",
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Bring an index to the state of its data: add what is new, drop what is gone."""
    from contrastive.cli.index_context import given_data, index_context, known_data
    from contrastive.errors import DataError
    from contrastive.indexes.index import Index
    from contrastive.inference.index_building import IndexChange, update_index

    check_engine(engine)
    opened = Index(folder)
    named = opened.about.data
    moved = named if len(named) == 1 else [one for one in named if one.is_gone(folder)]
    if data is not None and len(moved) != 1:
        held = ", ".join(one.name for one in named) or "no data"
        gone = f"of {held}, {len(moved)} are gone"
        msg = f"{folder}: --data {data}: says where the one data are that are gone; {gone}"
        raise DataError(msg)
    context = index_context(opened, model, device=device, trusted=trusted, changes=changes)
    encode = encoder(context, processes, engine)
    changed: list[IndexChange] = []
    for one in named:
        if data and one in moved:
            given = given_data(context, data, one.split, folder)
        else:
            given = known_data(context, one, folder, trusted=trusted)
        change = update_index(
            context.model,
            given.read(),
            folder,
            data=one.name,
            now=given.about,
            workers=given.workers,
            cache=context.cache,
            encode=encode,
        )
        changed.append(change)
    names = ("added", "removed", "changed", "renumbered", "encoded")
    total = {name: sum(getattr(one, name) for one in changed) for name in names}
    _show_change(IndexChange(Index(folder), **total), as_json)


@index.command(cls=Verb)
def remove(
    folder: IndexFolder,
    samples: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SAMPLE]...", help="Paths, texts or sources of rows."),
    ] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Take rows out of an index; update brings back what the data still have."""
    from contrastive.inference.index_building import remove_from_index

    _show_change(remove_from_index(folder, samples or (), where=where or ()), as_json)


@index.command(cls=Verb)
def info(
    folder: IndexFolder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all files and compare their checksums.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is in an index; with --verify, the exit code is 1 if a file is damaged."""
    from contrastive.config.amounts import shown_bytes
    from contrastive.indexes.index import Index

    opened = Index(folder)
    about = opened.summary()
    damages = opened.damages() if verify else []
    shown: dict[str, Any] = about | ({"damages": damages} if verify else {})
    rows = ", ".join(f"{count:,} {name}" for name, count in about["rows"].items()) or "none"
    lines = [
        f"rows: {rows}; {about['deleted']:,} deleted",
        f"vectors: {about['dim']} wide, in {about['segments']:,} segments, "
        f"{shown_bytes(about['bytes'])}, backend {about['backend']}",
        *_recall_lines(opened),
        f"model: {about['model'] or 'not noted'} ({about['sha256'][:12]})",
        *(f"data: {name}" for name in about["data"]),
        f"columns: {', '.join(about['columns'])}",
    ]
    show(shown, as_json, *lines, *damages, *(["all files are whole"] * (verify and not damages)))
    if damages:
        raise typer.Exit(1)


def _recall_lines(index: Index) -> list[str]:
    """Return what finds candidates, and how many of the nearest are found."""
    from contrastive.config.amounts import shown_bytes
    from contrastive.indexes.backends import FAISS

    about = index.about
    if not about.structures and about.backend in FAISS:
        fewest = FAISS[about.backend].fewest_rows
        return [f"candidates: all rows are compared; from {fewest:,} on, {about.backend} helps"]
    if not about.structures:
        return []
    small = about.small
    form = f"{small.dim} numbers, {small.quantize or 'float32'}" if small else about.backend
    held = sum(one.file.bytes for one in about.structures)
    return [
        f"candidates: {form}, in {len(about.structures):,} files, {shown_bytes(held)}",
        *(
            f"recall@10 of {name}: {one.share:.3f}, of {one.queries} {one.of} rows as queries, "
            f"effort {one.effort}"
            for name, one in about.recall.items()
        ),
    ]


def _show_change(change: IndexChange, as_json: bool) -> None:
    rows = ", ".join(f"{change.index.rows(m):,} {m}" for m in change.index.modalities) or "no"
    renumbered = f", {change.renumbered:,} renumbered" if change.renumbered else ""
    lines = [
        f"{change.added:,} added, {change.removed:,} removed, {change.changed:,} changed"
        f"{renumbered}; {change.encoded:,} embedded",
        f"{change.index.folder}: {rows} rows",
    ]
    show(change.as_dict(), as_json, *lines, *_recall_lines(change.index))
