"""What changes an index: one writer at a time; what is not committed is swept up by the next.

Shapes: M rows of a segment, D wide.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from contrastive.data.storage.file_locks import locked
from contrastive.data.storage.folders import check_writable_folder
from contrastive.errors import DataError
from contrastive.indexes import index_file
from contrastive.indexes.index import Index
from contrastive.indexes.index_file import INDEX, About, DataOf, ModelOf, Segment, Structure
from contrastive.indexes.segments import (
    TABLE,
    VECTORS,
    Row,
    rows_of_table,
    write_segment,
    write_tensors,
)
from contrastive.model.saved_files import Listed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from torch import Tensor

    from contrastive.indexes.index_file import Recall, Small
    from contrastive.indexes.open_segment import OpenSegment

LOCK, ENCODING = ".lock", ".encoding"
WAIT = 5.0  # seconds for another writer
SEGMENT_ROWS = 8192
LISTED = 1000  # deleted rows of a segment, above which it is written anew
MOST_LISTED = 500_000  # of all segments, in a file of which 16 MB are read
SMALL = 8  # segments that are not half full, above which neighbours are joined
OURS = re.compile(r"\w{1,64}-[0-9]{6,9}(\.\w{1,64})?\.(safetensors|parquet)")


@dataclass(frozen=True)
class Place:
    """A row of a segment."""

    segment: int
    """Among those of the writer's index."""
    row: int


class Writer:
    """Holds the lock of an index, and gathers what the next commit changes."""

    def __init__(self, folder: Path, about: About) -> None:
        """Begin from the state that ``about`` is."""
        self.folder = folder
        self._open(about)

    def _open(self, about: About) -> None:
        self.about = about
        self.index = Index(self.folder)
        modalities = dict.fromkeys(segment.modality for segment in about.segments)
        self.held: list[OpenSegment] = [
            segment for name in modalities for segment in self.index.opened(name)
        ]
        self._deleted: dict[int, set[int]] = {}
        self._added: list[Segment] = []
        self._data = [*about.data]
        self._next = about.next
        self._search = about.backend, about.small

    @property
    def encoding(self) -> Path:
        """The folder for embeddings of an unfinished build."""
        return self.folder / ENCODING

    def add_data(self, data: DataOf) -> int:
        """Name further data, and return their number."""
        self._data.append(data)
        return len(self._data) - 1

    def replace_data(self, number: int, data: DataOf) -> None:
        """Say that data are elsewhere now."""
        self._data[number] = data

    def search_by(self, backend: str, small: Small | None) -> None:
        """Say how the index is searched from the next commit on."""
        self._search = backend, small

    def add(self, modality: str, rows: Sequence[Row], vectors: Tensor | Path) -> None:
        """Write a segment, which the next commit lists."""
        self._added.append(write_segment(self.folder, modality, self._next, rows, vectors))
        self._next += 1

    def delete(self, places: Iterable[Place]) -> None:
        """Delete rows with the next commit."""
        for place in places:
            self._deleted.setdefault(place.segment, set()).add(place.row)

    def commit(self) -> None:
        """Make all that was added and deleted the index's state, in one step."""
        kept: list[Segment] = []
        listed = MOST_LISTED // max(1, len(self.held))
        # what covers many segments would have to be made again of all of them
        if all(len(one.covers) == 1 for one in self.about.structures):
            listed = min(LISTED, listed)
        for number, segment in enumerate(self.held):
            gone = {*segment.about.deleted, *self._deleted.get(number, ())}
            if len(gone) == segment.about.rows:
                continue
            if len(gone) > listed or len(gone) * 2 > segment.about.rows:
                kept.append(self._rewritten([(segment, gone)]))
            else:
                kept.append(segment.about.model_copy(update={"deleted": sorted(gone)}))
        self._replace([*kept, *self._added])

    def add_structure(
        self, modality: str, kind: str, covers: list[int], tensors: Mapping[str, Tensor]
    ) -> None:
        """Write a structure, and commit it in the place of others that cover the same segments."""
        listed = Listed(bytes=0, sha256="0" * 64)
        made = Structure(
            modality=modality, number=self._next, kind=kind, covers=covers, file=listed
        )
        self._next += 1
        file = write_tensors(self.folder / made.file_name, tensors)
        made = made.model_copy(update={"file": file})
        others = [
            one
            for one in self.about.structures
            if one.modality != modality or not {*one.covers} & {*covers}
        ]
        self.replace_structures([*others, made], self.about.recall)

    def replace_structures(self, structures: list[Structure], recall: dict[str, Recall]) -> None:
        """Commit which structures there are, and what a search of them finds."""
        kept = {"structures": structures, "recall": recall}
        self._commit(self.about.model_copy(update=kept | {"next": self._next}))

    def join_small(self) -> None:
        """Join neighbours that are not half full, where there are many."""
        small = [self._is_small(segment.about) for segment in self.held]
        if sum(small) <= SMALL:
            return
        kept: list[Segment] = []
        group: list[OpenSegment] = []

        def close() -> None:
            kept.extend(
                [self._rewritten([(one, {*one.about.deleted}) for one in group])]
                if len(group) > 1
                else [one.about for one in group]
            )
            group.clear()

        for is_small, segment in zip(small, self.held, strict=True):
            about = segment.about
            other = group and about.modality != group[0].about.modality
            full = sum(one.about.live for one in group) + about.live > SEGMENT_ROWS
            if other or full or not is_small:
                close()
            if is_small:
                group.append(segment)
            else:
                kept.append(about)
        close()
        self._replace(kept)

    def _is_small(self, about: Segment) -> bool:
        return about.live * 2 < SEGMENT_ROWS

    def _rewritten(self, segments: Sequence[tuple[OpenSegment, set[int]]]) -> Segment:
        """Write the rows of neighbours that are left into a new segment."""
        rows: list[Row] = []
        vectors: list[Tensor] = []
        for segment, gone in segments:
            left = [row for row in range(segment.about.rows) if row not in gone]
            rows += rows_of_table(segment.table, left)
            vectors.append(segment.vectors_MD[left])
        modality = segments[0][0].about.modality
        made = write_segment(self.folder, modality, self._next, rows, torch.cat(vectors))
        self._next += 1
        return made

    def _replace(self, segments: list[Segment]) -> None:
        order = [*dict.fromkeys(segment.modality for segment in segments)]
        segments.sort(key=lambda segment: order.index(segment.modality))
        there = {(segment.modality, segment.number) for segment in segments}
        structures = [
            one
            for one in self.about.structures
            if there.issuperset((one.modality, number) for number in one.covers)
        ]
        backend, small = self._search
        if (backend, small) != (self.about.backend, self.about.small):
            structures = []
        update: dict[str, Any] = {"segments": segments, "next": self._next, "data": self._data}
        update |= {"structures": structures, "backend": backend, "small": small}
        update |= {} if structures else {"recall": {}}
        self._commit(self.about.model_copy(update=update))

    def _commit(self, about: About) -> None:
        if about != self.about:
            index_file.write(self.folder, about)
        self._open(about)


@contextmanager
def writing(folder: Path, *, new: About | None = None) -> Generator[Writer]:
    """Hold an index for writing; where there is none, make an empty one that is ``new``.

    Raises:
        DataError: there is none, another process writes it, or it cannot be written; or the folder
            holds something else.
    """
    if new is None:
        index_file.read(folder)
    else:
        check_writable_folder(folder, what="index")
        folder.mkdir(parents=True, exist_ok=True)
        own = (LOCK, ENCODING, f".{INDEX}.tmp")  # before there is an index, no segment is written
        if not (folder / INDEX).exists() and any(path.name not in own for path in folder.iterdir()):
            msg = f"{folder}: is there already, and holds no {INDEX}; give another folder"
            raise DataError(msg)
    try:
        with locked(folder / LOCK, wait=WAIT):
            if new is not None and not (folder / INDEX).exists():
                index_file.write(folder, new)
            about = index_file.read(folder)
            sweep(folder, about)
            yield Writer(folder, about)
    except TimeoutError:
        msg = f"{folder}: another process writes this index; wait until it is done"
        raise DataError(msg) from None


def sweep(folder: Path, about: About) -> None:
    """Delete the files that a writer has left, or has replaced before the last commit."""
    listed = {
        f"{segment.stem}{suffix}" for segment in about.segments for suffix in (VECTORS, TABLE)
    } | {structure.file_name for structure in about.structures}
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in listed:
            with suppress(OSError):
                path.unlink()


def model_of(sha256: str, place: str | Path | None, folder: Path) -> ModelOf:
    """Describe a model, and where it is."""
    if not isinstance(place, Path):
        return ModelOf(sha256=sha256, place=place)
    with suppress(ValueError):  # on another drive of Windows
        beside = Path(os.path.relpath(place, folder)).as_posix()
        return ModelOf(sha256=sha256, place=str(place.absolute()), beside=beside)
    return ModelOf(sha256=sha256, place=str(place.absolute()))
