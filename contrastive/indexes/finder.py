"""Search through structures: they find candidates, which are scored with the exact vectors.

Shapes: Q queries, M rows of some segments, N of a modality, D wide, C candidates, k results.
"""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from contrastive.console import say
from contrastive.errors import DataError, MissingExtra
from contrastive.indexes import exact
from contrastive.indexes.backends import kind_of
from contrastive.indexes.segments import check_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.indexes.backends import Kind, OpenStructure
    from contrastive.indexes.index_file import About, Structure
    from contrastive.indexes.open_segment import OpenSegment

NEAREST_K = 10  # results for which recall is measured
TENTH = 10  # where less than a tenth of the rows may be found, these are compared one by one
AGAIN = "searched without it; contrastive index update makes it again"


def open_structure(
    folder: Path, about: Structure, kind: Kind, segments: Sequence[OpenSegment]
) -> OpenStructure:
    """Open the file of a structure, of the segments that it covers.

    Raises:
        DataError: it is not there, damaged, or none.
    """
    path = folder / about.file_name
    try:
        check_size(path, about.file)
        return kind.open(load_file(path), [segment.vectors_MD for segment in segments])
    except (DataError, SafetensorError, OSError) as error:
        problem = "is gone" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        msg = f"{path}: {' '.join(problem.split()):.300}"
        raise DataError(msg) from None


class Finder:
    """Searches the rows of a modality."""

    def __init__(
        self, folder: Path, about: About, modality: str, segments: Sequence[OpenSegment]
    ) -> None:
        """Search these segments, all of the modality; structures are opened when they are used."""
        self.folder, self.about, self.segments = folder, about, segments
        self.recall = about.recall.get(modality)
        self._listed = [one for one in about.structures if one.modality == modality]

    @property
    def _efforts(self) -> Sequence[int]:
        kind = kind_of(self.about)
        return kind.efforts if kind else ()

    @cached_property
    def _opened(self) -> list[tuple[OpenStructure, list[int]]]:
        """The structures that can be used, with the places of their segments."""
        kind = kind_of(self.about)
        at = {segment.about.number: i for i, segment in enumerate(self.segments)}
        found: list[tuple[OpenStructure, list[int]]] = []
        for structure in self._listed:
            if kind is None or structure.kind != kind.name:
                continue
            covers = [at[number] for number in structure.covers]
            own = [self.segments[i] for i in covers]
            try:
                found.append((open_structure(self.folder, structure, kind, own), covers))
            except DataError as error:
                say(f"{error}; {AGAIN}")
            except MissingExtra as error:
                say(f"{error}; until then, every row is compared")
                break
        return found

    def top_k(
        self, queries_QD: Tensor, items: exact.Items, k: int, effort: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return scores and numbers ``[Q, min(k, N)]``, as ``exact.top_k`` does, of most of these.

        ``effort`` is that with which recall was measured, if it is not given.
        """
        k = min(k, items.count)
        rows = sum(items.sizes)
        if effort is None and self.recall:
            effort = self.recall.effort
            kind = kind_of(self.about)
            if kind and not kind.pays(len(queries_QD), rows, k, effort):
                effort = None
        few = items.count * TENTH < rows
        if effort is None or few or not (k and len(queries_QD) and self._opened):
            return exact.top_k(queries_QD, items, k)
        blocks = [
            self._of_all(queries_QD[start : start + exact.QUERIES].float(), items, k, effort)
            for start in range(0, len(queries_QD), exact.QUERIES)
        ]
        scores, numbers = zip(*blocks, strict=True)
        return torch.cat(scores), torch.cat(numbers)

    def _of_all(
        self, queries_QD: Tensor, items: exact.Items, k: int, effort: int
    ) -> tuple[Tensor, Tensor]:
        """Search with an effort, and again with more where a result was among the last candidates.

        Where the structure sees other distances than there are, more candidates hold more results.
        """
        numbers_QC = self._candidates(queries_QD, items, k, effort)
        covered = {i for _, covers in self._opened for i in covers}
        all_there = numbers_QC.shape[1] == sum(items.sizes[i] for i in covered)
        late_QC = numbers_QC[:, numbers_QC.shape[1] // 2 :]
        if left := [i for i in range(len(self.segments)) if i not in covered]:
            masks = [items.allowed[i] for i in left] if items.allowed else None
            others = exact.Items([items.pieces[i] for i in left], masks)
            _, at = exact.top_k(queries_QD, others, k)
            numbers_QC = torch.cat([numbers_QC, _numbers(items, left, at)], 1)
        found = exact.best_of(queries_QD, items, numbers_QC, k)
        few_Q = (found[1] < 0).any(1)  # of the candidates meet the conditions
        late_Q = _has_any(late_QC, found[1]) & ~few_Q & (not all_there)
        more = next((one for one in self._efforts if one > effort), None)
        for which_Q, deeper in ((few_Q, None), (late_Q, more)):
            some = which_Q.nonzero()[:, 0]
            if not len(some):
                continue
            again = (
                self._of_all(queries_QD[some], items, k, deeper)
                if deeper
                else exact.top_k(queries_QD[some], items, k)
            )
            for whole, part in zip(found, again, strict=True):
                whole[some] = part
        return found

    def _candidates(self, queries_QD: Tensor, items: exact.Items, k: int, effort: int) -> Tensor:
        """Return the numbers ``[Q, C]`` of what the structures find, best first; -1 is none."""
        scores: list[Tensor] = []
        numbers: list[Tensor] = []
        for structure, covers in self._opened:
            allowed_M = _joined(items, covers)
            some, at = structure.candidates(queries_QD, max(k, NEAREST_K), allowed_M, effort)
            scores.append(some)
            numbers.append(_numbers(items, covers, at.clamp_min(0)))
        most = max(some.shape[1] for some in scores)
        scores_QC, at = torch.cat(scores, 1).topk(most, dim=1)
        numbers_QC = torch.cat(numbers, 1).gather(1, at)
        return numbers_QC.masked_fill(scores_QC == -torch.inf, -1)


def _has_any(some_QC: Tensor, numbers_QK: Tensor) -> Tensor:
    """Whether some of the numbers are among others, by row: ``[Q]``."""
    sorted_QC = some_QC.sort(1).values
    at_QK = torch.searchsorted(sorted_QC, numbers_QK).clamp_max(sorted_QC.shape[1] - 1)
    return (sorted_QC.gather(1, at_QK) == numbers_QK).any(1)


def _numbers(items: exact.Items, pieces: Sequence[int], at: Tensor) -> Tensor:
    """Return the numbers of rows by their places in some pieces, one behind the other."""
    starts = [*accumulate((items.sizes[i] for i in pieces[:-1]), initial=0)]
    moved = torch.tensor([items.starts[i] for i in pieces]) - torch.tensor(starts)
    return at + moved[torch.searchsorted(torch.tensor(starts), at, right=True) - 1]


def _joined(items: exact.Items, pieces: Sequence[int]) -> Tensor | None:
    """Return which rows of some pieces may be found."""
    masks = [items.allowed[i] if items.allowed else None for i in pieces]
    if all(mask is None for mask in masks):
        return None
    return torch.cat(
        [
            torch.ones(items.sizes[i], dtype=torch.bool) if mask is None else mask
            for i, mask in zip(pieces, masks, strict=True)
        ]
    )
