"""Where the keys of a store are: sorted runs over its records, found by binary search.

A run is a file ``index-BEGIN-END.bin`` over the rows between two locations: the first 8 bytes of
each key as a number, ascending, then the location of each. New rows are looked through one by one
until there are ``TAIL`` of them; these become a run, and a run is merged with the one before it
until that is more than twice as long. So there are few runs, and each row is written a few times.

An index only saves time. Whoever finds a key compares all of it, and the checksum of the row; a run
that does not fit its records is not used, and may be deleted at any time.

Shapes: K keys, R entries of a run, T rows of the tail.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from contrastive.config.local_files import check_regular
from contrastive.data.storage.atomic_files import flush_folder, write
from contrastive.features.parts import (
    RECORD,
    Parts,
    location_of,
    names_of,
    opened,
    part_numbers,
    split_location,
    split_locations,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAIL = 1 << 14
"""Rows that are looked through one by one; their records are half a megabyte."""
MOST_MERGED = 1 << 22
"""Entries of a run that is merged with another: 64 MB, of which a merge takes six times as much."""
_RUN = re.compile(r"index-([0-9a-f]{16})-([0-9a-f]{16})\.bin")
BUILDING = ".index.tmp"


@dataclass(frozen=True)
class Run:
    """Sorted keys, in a file or in memory."""

    begin: int
    end: int
    heads_R: np.ndarray
    locations_R: np.ndarray

    def candidates(self, heads_K: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield which of the keys may be here, and where; a key that is here twice, twice."""
        which = np.arange(len(heads_K))
        at = np.searchsorted(self.heads_R, heads_K)
        while len(which):
            inside = at < len(self.heads_R)
            which, at = which[inside], at[inside]
            same = self.heads_R[at] == heads_K[which]
            which, at = which[same], at[same]
            if len(which):
                yield which, self.locations_R[at].astype(np.int64)
            at = at + 1


def is_run(name: str) -> bool:
    """Whether a file's name is that of a run, or of one that was being written."""
    return name == BUILDING or _RUN.fullmatch(name) is not None


def heads_of(keys_K: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of keys ``[K, 32]`` as numbers, in the order of the keys."""
    return np.ascontiguousarray(keys_K[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def key_bytes(records: np.ndarray) -> np.ndarray:
    """Return the keys of records as ``[M, 32]`` bytes."""
    return records.view(np.uint8).reshape(len(records), RECORD.itemsize)[:, :32]


def have_keys(records: np.ndarray) -> np.ndarray:
    """Return which records have a key; those of rows that were written in part have none."""
    return np.any(key_bytes(records) != 0, axis=1)


class KeyIndex:
    """The runs over the parts of one encoder, and the rows behind them."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.runs: list[Run] = []
        self._read: list[tuple[np.ndarray, np.ndarray]] = []
        """Heads and locations of the tail, as they were read."""
        self._read_to = 0
        self._tail: Run | None = None
        self._unfit: list[str] = []

    def refresh(self) -> None:
        """Look at what has been added since, by this process or another."""
        names = os.listdir(self.parts.folder)  # noqa: PTH208
        rows = _Counts(self.parts)
        fitting, self._unfit = _fitting(names, rows)
        self._use(_cover(fitting))
        of_begin, at = split_location(self._read_to)
        numbers = [number for number in part_numbers(names) if number >= of_begin]
        for number in numbers:
            first = at if number == of_begin else 0
            if (last := rows[number]) > first:
                self._add(number, first, last)

    def drop_unfit(self) -> None:
        """Delete runs over rows that were cut off, since others are about to take their place.

        This process holds the lock of the store, and has refreshed the index.

        Raises:
            OSError: one cannot be deleted.
        """
        for name in self._unfit:
            (self.parts.folder / name).unlink(missing_ok=True)

    @property
    def tail_length(self) -> int:
        """How many rows are in no run."""
        return sum(len(heads) for heads, _ in self._read)

    def sorted_parts(self) -> Iterator[Run]:
        """Yield all there is to search, the earliest rows first."""
        yield from self.runs
        if self._tail is None:
            self._tail = _sorted(self._begin, self._read_to, self._read)
        yield self._tail

    def extend(self) -> None:
        """Make a run of the tail; this process holds the lock of the store.

        Raises:
            OSError: it cannot be written.
        """
        pieces, begin, kept = [*self._read], self._begin, [*self.runs]
        if not self.tail_length:
            return
        for part in {int(split_locations(x[:1])[0][0]) for _, x in pieces if len(x)}:
            with opened(self.parts.folder / names_of(part)[1], os.O_RDONLY) as keys:
                os.fsync(keys)  # or a crash of the system might cut off what the run has
        length = self.tail_length
        while kept and len(kept[-1].heads_R) <= min(2 * length, MOST_MERGED):
            run = kept.pop()
            pieces.insert(0, (run.heads_R, run.locations_R))
            begin, length = run.begin, length + len(run.heads_R)
        made = _sorted(begin, self._read_to, pieces)
        folder = self.parts.folder
        path = _path(folder, made.begin, made.end)
        building = folder / BUILDING  # one name, so that a crash leaves one file
        write(building, [made.heads_R.data, made.locations_R.data])
        building.replace(path)
        flush_folder(folder)
        used = {_path(folder, run.begin, run.end) for run in kept} | {path}
        for name in os.listdir(folder):  # noqa: PTH208
            if _RUN.fullmatch(name) and folder / name not in used:
                with suppress(OSError):  # another process on Windows has it open
                    (folder / name).unlink()
        self._use([*map(self._key, kept), (made.begin, made.end)])

    @property
    def _begin(self) -> int:
        return self.runs[-1].end if self.runs else 0

    @staticmethod
    def _key(run: Run) -> tuple[int, int]:
        return run.begin, run.end

    def _restart(self) -> None:
        self._read, self._read_to, self._tail = [], self._begin, None

    def _use(self, cover: list[tuple[int, int]]) -> None:
        """Take these runs, and drop from the tail what they have."""
        if cover == [*map(self._key, self.runs)]:
            return
        had = {self._key(run): run for run in self.runs}
        self.runs = []
        for begin, end in cover:
            try:
                run = had.get((begin, end)) or run_of(_path(self.parts.folder, begin, end))
            except (OSError, ValueError):  # another process has just merged it
                break
            self.runs.append(run)
        self._restart()

    def _add(self, number: int, first: int, last: int) -> None:
        records = self.parts.read_records(number, first, last)
        keys = key_bytes(records)
        places = np.arange(first, first + len(records), dtype=np.int64)
        kept = have_keys(records)
        self._read.append((heads_of(keys)[kept], location_of(number, 0) | places[kept]))
        self._read_to = location_of(number, first + len(records))
        self._tail = None


class _Counts(dict[int, int]):
    """How many rows each part has, counted when it is asked for."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts = parts

    def __missing__(self, number: int) -> int:
        self[number] = found = self._parts.rows(number)
        return found


def _fitting(names: list[str], rows: _Counts) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the runs whose rows are there, and the names of those whose rows are not."""
    found: list[tuple[int, int]] = []
    unfit: list[str] = []
    for name in names:
        if match := _RUN.fullmatch(name):
            begin, end = int(match[1], 16), int(match[2], 16)
            if begin < end and _fits(end, rows):
                found.append((begin, end))
            else:
                unfit.append(name)
    return found, unfit


def _cover(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return those that lie one behind the other, the longest of those that begin alike."""
    by_begin = dict(sorted(runs))
    found: list[tuple[int, int]] = []
    at = 0
    while at in by_begin:
        found.append((at, by_begin[at]))
        at = by_begin[at]
    return found


def _fits(end: int, rows: _Counts) -> bool:
    """Whether the rows that a run is over are there: files may have been cut off."""
    part, row = split_location(end)
    return part < 1 << 17 and rows[part] >= row


def _path(folder: Path, begin: int, end: int) -> Path:
    return folder / f"index-{begin:016x}-{end:016x}.bin"


def run_names(folder: Path) -> list[str]:
    """Return the names of the runs in a store's folder."""
    return sorted(name for name in os.listdir(folder) if _RUN.fullmatch(name))  # noqa: PTH208


def run_of(path: Path) -> Run:
    """Return a run, mapped into memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut off.
    """
    match = _RUN.fullmatch(path.name)
    assert match
    with opened(path, os.O_RDONLY):
        size = check_regular(path)
    if not size or size % 16:
        msg = f"{path}: is cut off"
        raise ValueError(msg)
    entries = np.asarray(np.memmap(path, np.uint64, "r", shape=(size // 8,)))
    half = size // 16
    return Run(int(match[1], 16), int(match[2], 16), entries[:half], entries[half:])


def _sorted(begin: int, end: int, pieces: list[tuple[np.ndarray, np.ndarray]]) -> Run:
    """Return pieces as one run; of equal keys, the row that came first is first."""
    heads = np.concatenate([np.empty(0, np.uint64), *(heads for heads, _ in pieces)])
    places = np.concatenate(
        [np.empty(0, np.uint64), *(rows.astype(np.uint64) for _, rows in pieces)]
    )
    order = np.argsort(heads, kind="stable")
    return Run(begin, end, heads[order], places[order])
