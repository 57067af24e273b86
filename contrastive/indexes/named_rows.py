"""Rows by what a user calls them: a path, a text or a source.

Shapes: M rows of a segment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from contrastive.indexes.open_segment import OpenSegment


def named_rows(
    segments: Sequence[OpenSegment], names: Collection[str]
) -> Iterator[tuple[int, int, set[str]]]:
    """Yield the segment and the number of each row that has one of the names, and which.

    A name that no row has may be another way to write a path: ``./photos/1.jpg``, or a whole path.
    Rows that are deleted have no name.
    """
    left = {*names}
    for number, segment in enumerate(segments):
        for row, sample, source in _rows(segment, [*names]):
            found = {sample, source} & {*names}
            left -= found
            yield number, row, found
    paths = [name for name in left if "." in name or os.sep in name]
    if not paths:
        return
    whole = {os.path.abspath(name): name for name in paths}  # noqa: PTH100  (without .. in it)
    for number, segment in enumerate(segments):
        samples = segment.table.column("sample").to_pylist()
        for row in segment.live_numbers():
            if name := samples[row] and whole.get(os.path.abspath(samples[row])):  # noqa: PTH100
                yield number, row, {name}


def _rows(segment: OpenSegment, names: list[str]) -> Iterator[tuple[int, Any, Any]]:
    """Yield number, sample and source of the rows that have one of the names as it is."""
    compute, arrow = (require(name, extra="parquet") for name in ("pyarrow.compute", "pyarrow"))
    samples, sources = (segment.table.column(name) for name in ("sample", "source"))
    wanted = arrow.array(names, arrow.string())
    either = compute.or_(*(compute.is_in(column, wanted) for column in (samples, sources)))
    gone = {*segment.about.deleted}
    for row in compute.indices_nonzero(either).to_pylist():
        if row not in gone:
            yield row, samples[row].as_py(), sources[row].as_py()
