"""Make the structures of an index's backend, and measure what a search of them finds.

Shapes: Q queries, M rows of a segment, D wide, k results.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from contrastive.console import bar, say
from contrastive.errors import DataError, MissingExtra
from contrastive.indexes import exact
from contrastive.indexes.backends import check_installed, kind_of
from contrastive.indexes.finder import NEAREST_K, Finder, open_structure
from contrastive.indexes.index_file import Recall
from contrastive.indexes.segments import listed_file

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.indexes.backends import Kind
    from contrastive.indexes.index import Index
    from contrastive.indexes.open_segment import OpenSegment
    from contrastive.indexes.writer import Writer

MEASURED = 128  # queries
LONG = 20_000  # rows, from which on progress is shown
GOAL = 0.97  # measured of some queries, so that 0.95 holds for others, too


def refresh(writer: Writer) -> None:
    """Make the structures that are missing, damaged, or of many fewer rows than could be joined.

    Each is committed by itself. Until recall is measured, every vector is compared.
    """
    kind = kind_of(writer.about)
    if kind is None:
        writer.replace_structures([], {})
        return
    try:
        check_installed(writer.about.backend)
    except MissingExtra as error:
        say(f"{error}; until then, rows that are new are compared one by one")
        return
    before = writer.about.structures
    whole = [one for one in before if one.kind == kind.name and _opens(writer, one.number, kind)]
    if whole != before:
        writer.replace_structures(whole, writer.about.recall)
    groups = [
        (modality, group)
        for modality in dict.fromkeys(segment.modality for segment in writer.about.segments)
        for group in _groups(writer, modality, kind)
    ]
    if groups:
        rows = sum(segment.about.rows for _, group in groups for segment in group)
        with bar("making structures", rows) if rows >= LONG else nullcontext(_quiet) as advance:
            for modality, group in groups:
                tensors = kind.build([segment.vectors_MD for segment in group], advance)
                numbers = [segment.about.number for segment in group]
                writer.add_structure(modality, kind.name, numbers, tensors)
    if writer.about.structures != before or not writer.about.recall:
        writer.replace_structures(writer.about.structures, _recall(writer.index, kind))


def _quiet(_rows: int, _text: str) -> None:
    """Show no progress."""


def _opens(writer: Writer, number: int, kind: Kind) -> bool:
    """Whether a structure can be used."""
    about = next(one for one in writer.about.structures if one.number == number)
    of = {segment.about.number: segment for segment in writer.index.opened(about.modality)}
    try:
        if listed_file(writer.folder / about.file_name) != about.file:
            return False
        open_structure(writer.folder, about, kind, [of[number] for number in about.covers])
    except (DataError, OSError):
        return False
    return True


def _groups(writer: Writer, modality: str, kind: Kind) -> list[list[OpenSegment]]:
    """Return the segments that get a structure, in groups of one each.

    They are those that none covers, with those of structures that have fewer rows than these.
    """
    segments = writer.index.opened(modality)
    rows_of = {segment.about.number: segment.about.rows for segment in segments}
    covers = [one.covers for one in writer.about.structures if one.modality == modality]
    left = {*rows_of} - {number for several in covers for number in several}
    rows = sum(rows_of[number] for number in left)
    for several in sorted(covers, key=len):
        own = sum(rows_of[number] for number in several)
        if left and len(several) < kind.most_segments and own <= rows:
            left |= {*several}
            rows += own
    chosen = [segment for segment in segments if segment.about.number in left]
    step = kind.most_segments
    groups = [chosen[start : start + step] for start in range(0, len(chosen), step)]
    return [
        group
        for group in groups
        if sum(segment.about.rows for segment in group) >= kind.fewest_rows
    ]


def _recall(index: Index, kind: Kind) -> dict[str, Recall]:
    """Measure a search of each modality by the other one, if there is one, else by its own rows.

    The effort is raised until most of the nearest are found.
    """
    found: dict[str, Recall] = {}
    for modality in dict.fromkeys(one.modality for one in index.about.structures):
        others = [name for name in index.modalities if name != modality]
        by = max(others, key=index.rows) if others else modality
        if not index.rows(modality):
            continue
        queries_QD, itself_Q = _queries(index, by)
        items = _items(index, modality)
        wanted = min(NEAREST_K, items.count) + (by == modality)
        best_QK = _scores(*exact.top_k(queries_QD, items, wanted), itself_Q, own=by == modality)
        finder = Finder(index.folder, index.about, modality, index.opened(modality))
        share, effort = 0.0, kind.efforts[0]
        for effort in kind.efforts:
            some = finder.top_k(queries_QD, items, wanted, effort)
            some_QK = _scores(*some, itself_Q, own=by == modality)
            share = float((some_QK >= best_QK[:, -1:]).double().mean()) if best_QK.numel() else 1.0
            if share >= GOAL:
                break
        found[modality] = Recall(share=share, queries=len(queries_QD), of=by, effort=effort)
    return found


def _items(index: Index, modality: str) -> exact.Items:
    segments = index.opened(modality)
    return exact.Items(
        [segment.vectors_MD for segment in segments], [segment.live for segment in segments]
    )


def _queries(index: Index, modality: str) -> tuple[Tensor, Tensor]:
    """Return some vectors ``[Q, D]``, evenly spaced, and the numbers of their rows."""
    items = _items(index, modality)
    live = torch.cat([*items.numbers()])
    at = torch.linspace(0, len(live) - 1, min(MEASURED, len(live))).long()
    return items.rows(live[at]), live[at]


def _scores(scores_QK: Tensor, numbers_QK: Tensor, itself_Q: Tensor, *, own: bool) -> Tensor:
    """Return scores, without those of the queries with themselves."""
    if not own:
        return scores_QK
    others_QK = scores_QK.masked_fill(numbers_QK == itself_Q[:, None], -torch.inf)
    return others_QK.sort(1, descending=True).values[:, :-1]
