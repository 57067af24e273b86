"""The verbs about the cache: what is in it, what may go, whether it is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrastive.cli.options import Json
from contrastive.cli.output import show
from contrastive.cli.parsing import Verb
from contrastive.errors import DataError

if TYPE_CHECKING:
    from contrastive.features.inventory import CachedEncoder, Copy

cache = typer.Typer(no_args_is_help=True, help="List, prune or verify cached features and files.")

FILES = "copies of remote files and indexes of shards"
Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="A cache; else $CONTRASTIVE_CACHE, else contrastive in the user's cache folder.",
    ),
]


@cache.command("list", cls=Verb)
def list_(folder: Folder = None, as_json: Json = False) -> None:
    """List the encoders whose features are kept, the index of files, and copies of remote files."""
    from contrastive.config.amounts import shown_bytes
    from contrastive.console import say
    from contrastive.features.inventory import list_cache
    from contrastive.reporting.cache_tables import encoders_table

    found = list_cache(folder)
    copied = sum(copy.bytes for copy in found.copies)
    noted = sum(shard.bytes for shard in found.shards)
    told = [
        f"index of files: {found.indexed_files:,} files, {shown_bytes(found.index_bytes)}",
        f"copies of remote files: {len(found.copies):,} files, {shown_bytes(copied)}",
        f"indexes of shards: {len(found.shards):,} files, {shown_bytes(noted)}",
        f"models of storages (not pruned): {len(found.models):,}, {shown_bytes(found.model_bytes)}",
        f"{found.folder}: {shown_bytes(found.bytes)}",
    ]
    for path in found.others:
        say(f"{path}: is not of the cache, and is left alone")
    table = [encoders_table(found.encoders)] if found.encoders else ["No features are cached."]
    show(found.as_dict(), as_json, *table, *told)


@cache.command(cls=Verb)
def prune(
    folder: Folder = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Delete what was not used for so long: 30d, 12h, 2w."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Delete what was used longest ago until it has this size: 20GB."
        ),
    ] = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="Delete features that no run reads any more.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete features and copies of remote files, never those that a process uses.

    It says what would go, and asks. Features are computed again when they are
    needed, and files are fetched again.
    """
    if older_than is None and max_size is None and not outdated:
        msg = "say what may go: --older-than 30d, --max-size 20GB or --outdated"
        raise DataError(msg)
    from contrastive.config.amounts import shown_bytes
    from contrastive.console import say, say_omission
    from contrastive.features.inventory import list_cache
    from contrastive.features.pruning import remove, to_prune

    found = list_cache(folder)
    going = to_prune(found, older_than=older_than, max_size=max_size, outdated=outdated)
    if going and not yes:
        _ask(going)
    done = remove(going)
    for path in done.in_use:
        say_omission(f"{path}: stays: a process uses it, or it may not be deleted")
    for encoder in done.encoders:
        if encoder.folder.exists():
            say(f"{encoder.folder}: has files that are not of the cache, which stay")
    lines = [f"deleted: {_line(encoder)}" for encoder in done.encoders]
    if done.copies:
        copied = sum(copy.bytes for copy in done.copies)
        lines.append(f"deleted: {len(done.copies):,} {FILES}, {shown_bytes(copied)}")
    rest = found.bytes - done.bytes
    lines.append(f"{found.folder}: {shown_bytes(done.bytes)} freed, {shown_bytes(rest)} left")
    show(done.as_dict() | {"folder": str(found.folder), "bytes_left": rest}, as_json, *lines)


@cache.command(cls=Verb)
def verify(
    folder: Folder = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Take out damaged rows, and delete indexes that are wrong."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read all that is cached and compare checksums; exit code 1 if something is damaged.

    A damaged row is never used: it is computed again when it is needed.
    """
    from contrastive.features.inventory import list_cache
    from contrastive.features.verification import verify_cache

    found = list_cache(folder)
    damages = verify_cache(folder, repair=repair)
    rows = sum(encoder.rows for encoder in found.encoders)
    told = [f"{damage.path}: {damage.problem}; {damage.remedy}" for damage in damages]
    whole = f"{found.folder}: {rows:,} rows of {len(found.encoders)} encoders are whole"
    shown = [damage.as_dict() for damage in damages]
    show({"folder": str(found.folder), "rows": rows, "damages": shown}, as_json, *(told or [whole]))
    if damages:
        raise typer.Exit(1)


def _ask(going: list[CachedEncoder | Copy]) -> None:
    """Say what would go, and ask.

    Raises:
        DataError: nobody can be asked.
        Exit: the answer is no.
    """
    from contrastive.config.amounts import shown_bytes
    from contrastive.console import say
    from contrastive.features.inventory import CachedEncoder

    encoders = [each for each in going if isinstance(each, CachedEncoder)]
    for encoder in encoders:
        say(_line(encoder))
    if copies := [each for each in going if not isinstance(each, CachedEncoder)]:
        copied = sum(copy.bytes for copy in copies)
        say(f"{len(copies):,} {FILES}, {shown_bytes(copied)}")
    total = shown_bytes(sum(each.bytes for each in going))
    if not sys.stdin.isatty():
        msg = f"{total} would be deleted, and nobody can be asked; give --yes"
        raise DataError(msg)
    if not typer.confirm(f"delete {total}?", err=True):
        say("nothing is deleted")
        raise typer.Exit


def _line(encoder: CachedEncoder) -> str:
    from contrastive.config.amounts import shown_bytes

    return f"{encoder.folder}: {encoder.name}, {encoder.rows:,} rows, {shown_bytes(encoder.bytes)}"
