"""How results are shown: text and tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, cast

import typer

from contrastive.config.extras import require
from contrastive.console import printable
from contrastive.data.storage.folders import check_writable, check_writable_folder
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

UNFOLDED = 10_000  # columns of a table that goes to a pipe: a row is a line, for grep


def show(data: Any, as_json: bool, *shown: Table | str) -> None:
    """Print the result for a machine or for a person."""
    if as_json:
        # ASCII, whatever the encoding of the reader
        typer.echo(json.dumps(_finite(data), indent=1, allow_nan=False))
        return
    for part in shown:
        if isinstance(part, str):
            typer.echo(printable(part, lines=True))  # not folded, so that a path stays whole
        else:
            from rich.console import Console

            width = None if sys.stdout.isatty() else UNFOLDED
            Console(highlight=False, width=width).print(part)


def _finite(data: Any) -> Any:
    """Return plain data with null for what JSON does not have: a run that diverged has NaN."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in cast("dict[Any, Any]", data).items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in cast("Sequence[Any]", data)]
    return None if isinstance(data, float) and not math.isfinite(data) else data


PLOTS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Insist that a plot can be drawn into a file, before anything is computed.

    Raises:
        DataError: its ending names no format, its folder is not there, or matplotlib is not usable.
        MissingExtra: matplotlib is not installed.
    """
    try:
        require("matplotlib", extra="report")
    except ValueError as error:  # of a backend that the environment names
        msg = f"{path}: matplotlib cannot start: {error}; unset MPLBACKEND"
        raise DataError(msg) from None
    check_writable(path, PLOTS, what="plot")


def check_export(folder: Path | None) -> None:
    """Insist that results can be written to the folder of --clip-benchmark, before any is measured.

    Raises:
        DataError: they cannot.
    """
    if folder:
        check_writable_folder(folder, what="results")


def export_results(results: list[dict[str, Any]], folder: Path | None) -> None:
    """Write results as CLIP_benchmark does, if a folder is given."""
    from contrastive.console import say
    from contrastive.reporting.clip_benchmark import write_results

    for path in write_results(results, folder) if folder else ():
        say(f"written: {path}")
