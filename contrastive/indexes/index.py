"""An index as it was when it was opened: its vectors, its rows, and what is nearest to a query.

Shapes: Q queries, M rows of a segment, N of a modality, D wide, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.config.arguments import count, path_of, strings
from contrastive.errors import DataError, a_type
from contrastive.indexes import exact, index_file
from contrastive.indexes.filters import matching
from contrastive.indexes.finder import Finder
from contrastive.indexes.named_rows import named_rows
from contrastive.indexes.neighbours import loneliest, pairs_above
from contrastive.indexes.open_segment import OpenSegment
from contrastive.indexes.segments import (
    OWN,
    TABLE,
    VECTORS,
    listed_file,
    rows_of_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.indexes.index_file import About
    from contrastive.indexes.segments import Row

ATTEMPTS = 5  # at opening what a writer is replacing
UNEVEN = 0.02  # of the squared length of a query, which may come from another program
LONGEST = 1 + 1e-3  # of a cosine, with its rounding, and of a squared length


@dataclass(frozen=True)
class Found:
    """A row of an index, and its cosine with the query."""

    similarity: float
    number: int
    """The place among the modality's rows, deleted ones counted."""
    row: Row


class Index:
    """Vectors in a folder, searched without being read: they are mapped.

    What is written later is seen by an index that is opened later.

    Example:
        >>> index = build_index(model, rows, "indexed").index
        >>> index, len(index)
        (Index('indexed': 2 image, 2 text), 4)
    """

    def __init__(self, folder: str | Path) -> None:
        """Open an index that ``build_index`` wrote.

        Raises:
            DataError: there is none, it is damaged, or a newer release wrote it.
        """
        self.folder = path_of("the index", folder)
        self.about, segments = self._opened(ATTEMPTS)
        self._segments: dict[str, list[OpenSegment]] = {}
        self._finders: dict[str, Finder] = {}
        for segment in segments:
            self._segments.setdefault(segment.about.modality, []).append(segment)

    def _opened(self, attempts: int) -> tuple[About, list[OpenSegment]]:
        about = index_file.read(self.folder)
        try:
            return about, [OpenSegment(self.folder, each, about.dim) for each in about.segments]
        except OSError as error:
            if attempts and index_file.read(self.folder) != about:  # a writer has replaced them
                return self._opened(attempts - 1)
            path = error.filename or error
            msg = f"{path}: is listed, but cannot be read; {index_file.AFRESH}"
            raise DataError(msg) from None

    @property
    def modalities(self) -> list[str]:
        """The modalities that have rows."""
        return [name for name in self._segments if self.rows(name)]

    def rows(self, modality: str, *, where: Sequence[str] = ()) -> int:
        """Return how many rows a modality has; with conditions, how many meet them."""
        if where:
            return self._items(modality, where)[1].count
        return sum(segment.about.live for segment in self._segments.get(modality, ()))

    def __len__(self) -> int:
        """Return the number of rows of all modalities."""
        return sum(self.rows(modality) for modality in self._segments)

    def opened(self, modality: str) -> list[OpenSegment]:
        """Return the segments of a modality; none, if it has no rows."""
        return self._segments.get(modality, [])

    def segments(self, modality: str) -> list[OpenSegment]:
        """Return the segments of a modality.

        Raises:
            DataError: it has no rows.
        """
        if not self.rows(modality):
            there = f"it has {', '.join(self.modalities)}" if self.modalities else "it is empty"
            msg = f"{self.folder}: has no rows of {modality!r}; {there}"
            raise DataError(msg)
        return self._segments[modality]

    def search(
        self,
        queries: Tensor | np.ndarray,
        modality: str,
        *,
        k: int = 10,
        where: Sequence[str] = (),
        leaving_out: Sequence[int] = (),
    ) -> list[list[Found]]:
        """Return the k nearest rows of each query, best first, equal ones in the index's order.

        Args:
            queries: ``[Q, D]``, L2-normalised, of the model that made the index.
            modality: whose rows are searched.
            k: how many; all, if there are fewer.
            where: conditions such as ``label=dog`` or ``id>=10``, all of which have to hold.
            leaving_out: numbers of rows that are not to be found.

        Raises:
            DataError: the modality has no rows, a condition fits none of the columns, the queries
                are of another width, or vectors are damaged.

        Example:
            >>> index = build_index(model, rows, "indexed").index
            >>> found = index.search(model.embed("text", ["a red square"]), "image", k=1)
            >>> round(found[0][0].similarity, 1) <= 1
            True
        """
        k, where = count("k", k), strings("where", where)
        queries_QD = self._checked(queries)
        segments = self.segments(modality)
        allowed = self._allowed(segments, modality, where, leaving_out)
        items = exact.Items([segment.vectors_MD for segment in segments], allowed)
        scores_QK, numbers_QK = self._finder(modality).top_k(queries_QD, items, k)
        self._check_scores(segments, scores_QK)
        return self._found(segments, scores_QK, numbers_QK)

    def _checked(self, queries: Any) -> Tensor:
        """Return queries ``[Q, D]`` in fp32, of length 1."""
        try:
            queries_QD = torch.as_tensor(queries, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            msg = f"the queries are {a_type(queries)}; give what model.embed returns"
            raise DataError(msg) from None
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.about.dim:
            msg = f"the queries are {[*queries_QD.shape]}; the index has {self.about.dim} columns"
            raise DataError(msg)
        if not ((queries_QD.square().sum(1) - 1).abs() <= UNEVEN).all():  # NaN neither
            msg = "the queries are not of length 1; give what model.embed returns"
            raise DataError(msg)
        return queries_QD

    def like(
        self,
        name: str | Path,
        *,
        modality: str | None = None,
        k: int = 10,
        where: Sequence[str] = (),
    ) -> tuple[str, list[Found]]:
        """Return the modality of a row and the k rows of it that are nearest; no model is needed.

        Args:
            name: the path, the text or the source of the row; of several, the first is meant.
            modality: of the row, if several have such a name.
            k: how many.
            where: conditions, as of ``search``.

        Raises:
            DataError: the index has no such row.

        Example:
            >>> index = build_index(model, rows, "indexed").index
            >>> modality, found = index.like("red", k=1)
            >>> modality, found[0].row.source
            ('image', 'blue')
        """
        name = str(name)
        for kind, segments in self._segments.items():
            rows = named_rows(segments, [name]) if modality in (None, kind) else iter(())
            if found := next(rows, None):
                segment, row, _ = found
                leave = [sum(one.about.rows for one in segments[:segment]) + row]
                own_1D = segments[segment].vectors_MD[row : row + 1]
                return kind, self.search(own_1D, kind, k=k, where=where, leaving_out=leave)[0]
        msg = f"{self.folder}: has no {name}; give a path, a text or a source it has"
        raise DataError(msg)

    def duplicates(
        self, modality: str, *, least: float, k: int = 10, where: Sequence[str] = ()
    ) -> list[tuple[float, Row, Row]]:
        """Return the k nearest pairs of rows, nearest first.

        All pairs are compared: twice the rows take four times as long.

        Args:
            modality: whose rows.
            least: the least cosine.
            k: how many.
            where: conditions that both have to meet.

        Raises:
            DataError: the modality has no rows, or vectors are damaged.
            SpecError: ``least`` is no cosine, or a condition fits no column.

        Example:
            >>> index = build_index(model, [*rows, rows[0] | {"id": 7}], "twice").index
            >>> [(a.id, b.id) for cosine, a, b in index.duplicates("image", least=0.999)][:1]
            [(0, 7)]
        """
        segments, items = self._items(modality, where)
        found = pairs_above(items, least, count("k", k))
        self._check_scores(segments, torch.tensor([score for score, _, _ in found]))
        known = dict(self.row_at(segments, [n for _, *pair in found for n in pair]))
        return [(score, known[a], known[b]) for score, a, b in found]

    def outliers(self, modality: str, *, k: int = 10, where: Sequence[str] = ()) -> list[Found]:
        """Return the k rows that are farthest from others: their mean cosine with the ten nearest.

        All pairs are compared: twice the rows take four times as long.

        Args:
            modality: whose rows.
            k: how many.
            where: conditions that all that are compared have to meet.

        Example:
            >>> index = build_index(model, rows, "indexed").index
            >>> len(index.outliers("image"))
            2
        """
        segments, items = self._items(modality, where)
        found = loneliest(items, count("k", k))
        self._check_scores(segments, torch.tensor([score for score, _ in found]))
        known = dict(self.row_at(segments, [number for _, number in found]))
        return [Found(score, number, known[number]) for score, number in found]

    def _finder(self, modality: str) -> Finder:
        if modality not in self._finders:
            segments = self._segments[modality]
            self._finders[modality] = Finder(self.folder, self.about, modality, segments)
        return self._finders[modality]

    def _items(self, modality: str, where: Sequence[str]) -> tuple[list[OpenSegment], exact.Items]:
        segments = self.segments(modality)
        allowed = self._allowed(segments, modality, strings("where", where), ())
        return segments, exact.Items([segment.vectors_MD for segment in segments], allowed)

    def _check_scores(self, segments: Sequence[OpenSegment], scores: Tensor) -> None:
        if not (scores.abs() <= LONGEST).all():  # NaN neither
            self._tell_damage(segments)

    def _allowed(
        self,
        segments: Sequence[OpenSegment],
        modality: str,
        where: Sequence[str],
        leaving_out: Sequence[int],
    ) -> list[Tensor | None]:
        masks: list[Tensor | None] = [segment.live for segment in segments]
        if where:
            for i, mask in enumerate(matching(segments, where, f"{self.folder} ({modality})")):
                live = masks[i]
                masks[i] = mask if live is None else mask & live
        starts = np.cumsum([0, *(segment.about.rows for segment in segments)])
        for number in leaving_out:
            piece = int(np.searchsorted(starts, number, side="right")) - 1
            held = masks[piece]
            mask = (
                torch.ones(segments[piece].about.rows, dtype=torch.bool)
                if held is None
                else held.clone()
            )
            mask[number - int(starts[piece])] = False
            masks[piece] = mask
        return masks

    def _found(
        self, segments: Sequence[OpenSegment], scores_QK: Tensor, numbers_QK: Tensor
    ) -> list[list[Found]]:
        scores: list[list[float]] = cast("Any", scores_QK.tolist())
        numbers: list[list[int]] = cast("Any", numbers_QK.tolist())
        known = dict(self.row_at(segments, [number for several in numbers for number in several]))
        return [
            [Found(score, number, known[number]) for score, number in zip(*pair, strict=True)]
            for pair in zip(scores, numbers, strict=True)
        ]

    def row_at(
        self, segments: Sequence[OpenSegment], numbers: Sequence[int]
    ) -> list[tuple[int, Row]]:
        """Return rows by their numbers, in the order of the index."""
        found: list[tuple[int, Row]] = []
        wanted = np.unique(np.array(numbers, np.int64))
        starts = np.cumsum([0, *(segment.about.rows for segment in segments)])
        bounds = np.searchsorted(wanted, starts)
        for piece in np.flatnonzero(np.diff(bounds)).tolist():
            own = wanted[bounds[piece] : bounds[piece + 1]]
            rows = rows_of_table(segments[piece].table, (own - starts[piece]).tolist())
            found += zip(own.tolist(), rows, strict=True)
        return found

    def vectors(self, modality: str, numbers: Sequence[int]) -> Tensor:
        """Return vectors by the numbers of their rows: ``[N, D]``."""
        pieces = [segment.vectors_MD for segment in self.segments(modality)]
        return exact.Items(pieces).rows(torch.tensor([*numbers], dtype=torch.int64))

    def _tell_damage(self, segments: Sequence[OpenSegment]) -> None:
        """Say which file has vectors that are none.

        Raises:
            DataError: always.
        """
        for segment in segments:
            lengths_M = segment.vectors_MD.square().sum(1)
            if not ((lengths_M - 1).abs() <= LONGEST - 1).all():
                path = self.folder / f"{segment.about.stem}{VECTORS}"
                msg = f"{path}: damaged (vectors that are not of length 1); {index_file.AFRESH}"
                raise DataError(msg)
        msg = "the queries are not of length 1; give what model.embed returns"
        raise DataError(msg)

    def damages(self) -> list[str]:
        """Read all files, and return a line for each that is not as it was written."""
        told = [
            f"{path}: is not as it was written; contrastive index update makes it again"
            for path, known in (
                (self.folder / one.file_name, one.file) for one in self.about.structures
            )
            if not path.is_file() or listed_file(path) != known
        ]
        for segment in (each for several in self._segments.values() for each in several):
            listed = segment.about
            for suffix, known in ((VECTORS, listed.vectors), (TABLE, listed.table)):
                path = self.folder / f"{listed.stem}{suffix}"
                if not path.is_file() or listed_file(path) != known:
                    told.append(f"{path}: is not as it was written; {index_file.AFRESH}")
        return told

    def summary(self) -> dict[str, Any]:
        """Return what is in it, as plain data for JSON."""
        segments = self.about.segments
        files = [file for each in segments for file in (each.vectors, each.table)]
        about = self.about
        return {
            "index": str(self.folder),
            "rows": {modality: self.rows(modality) for modality in self.modalities},
            "deleted": sum(len(each.deleted) for each in segments),
            "segments": len(segments),
            "bytes": sum(file.bytes for file in files),
            "dim": about.dim,
            "backend": about.backend,
            "small": about.small and about.small.model_dump(),
            "structures": len(about.structures),
            "structures_bytes": sum(one.file.bytes for one in about.structures),
            "recall": {name: one.model_dump() for name, one in about.recall.items()},
            "model": self.about.model.place,
            "sha256": self.about.model.sha256,
            "data": [one.name for one in self.about.data],
            "columns": self.columns,
        }

    @property
    def columns(self) -> list[str]:
        """The columns that conditions may name."""
        names = (
            name
            for several in self._segments.values()
            for segment in several
            for name in segment.table.schema.names
        )
        return [name for name in dict.fromkeys(names) if name not in OWN[:3]]

    def __repr__(self) -> str:
        held = ", ".join(f"{self.rows(name):,} {name}" for name in self.modalities) or "empty"
        return f"Index({str(self.folder)!r}: {held})"
