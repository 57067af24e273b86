"""Whether what is in the cache is as it was written: checksums of rows, indexes, descriptions."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.local_files import check_regular
from contrastive.console import bar
from contrastive.data.storage.file_locks import PAUSE, InUse, locked
from contrastive.errors import reason_of
from contrastive.features.inventory import INDEX, LOCK, description_of, list_cache
from contrastive.features.key_index import have_keys, heads_of, key_bytes, run_names, run_of
from contrastive.features.parts import (
    RECORD,
    Parts,
    names_of,
    opened,
    split_location,
    split_locations,
)
from contrastive.features.store import ABOUT, ATTEMPTS, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_A_TIME = 1 << 14
"""Rows that are read at a time."""
REPAIR = "run: contrastive cache verify --repair"


@dataclass(frozen=True)
class Damage:
    """Something in the cache that is not as it was written."""

    path: Path
    problem: str
    remedy: str
    """What to do; or that it was done."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"path": str(self.path)}


def verify_cache(folder: str | Path | None = None, *, repair: bool = False) -> list[Damage]:
    """Read all features, their indexes and the index of files, and return what is damaged.

    A damaged row is never used: it is computed again when it is needed. Copies of remote files and
    indexes of shards are not read.

    Args:
        folder: of the cache; if None, the user's own.
        repair: take damaged rows out, and delete indexes that are wrong; what is missing is made
            again when it is needed.

    Raises:
        DataError: there is no such folder.

    Example:
        >>> tower = model.tower("image")
        >>> len(FeatureCache("features").table(tower.spec.encoder, tower.encoder, [red, blue]))
        2
        >>> verify_cache("features")
        []
    """
    found = list_cache(folder)
    damages: list[Damage] = []
    with bar("verifying", len(found.encoders)) as advance:
        for encoder in found.encoders:
            damages += _of_store(encoder.folder, repair=repair)
            advance(1, "")
    return [*damages, *_of_index(found.folder / INDEX)]


def _of_store(folder: Path, *, repair: bool) -> Iterator[Damage]:
    """Look through a store, which other processes do not delete meanwhile."""
    with ExitStack() as stack:
        for _ in range(ATTEMPTS):
            try:
                stack.enter_context(closing(InUse(folder / ABOUT, wait=PATIENCE)))
                break
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    if {path.name for path in folder.iterdir()} - {LOCK}:
                        time.sleep(PAUSE)  # another process may make it, or delete it
                        continue
                return
            except OSError:  # which is told below, if it is read no better
                break
        yield from _of_used_store(folder, repair=repair)


def _of_used_store(folder: Path, *, repair: bool) -> Iterator[Damage]:
    try:
        width = int(description_of(folder)["out_dim"])
    except (OSError, ValueError) as error:
        yield Damage(folder / ABOUT, reason_of(error), "run: contrastive cache prune --outdated")
        return
    parts = Parts(folder, width)
    for number in parts.numbers():
        yield from _told(folder / names_of(number)[1], partial(_of_part, parts, number, repair))
    for name in run_names(folder):
        yield from _told(folder / name, partial(_of_run, parts, folder / name, repair))


def _told(path: Path, check: Callable[[], Iterator[Damage]]) -> Iterator[Damage]:
    try:
        yield from check()
    except OSError as error:
        place = Path(error.filename) if error.filename else path
        yield Damage(place, reason_of(error), "delete it; its rows are computed again")


def _of_part(parts: Parts, number: int, repair: bool) -> Iterator[Damage]:
    path = parts.folder / names_of(number)[1]
    damaged: list[int] = []
    keys = parts.count_keys(number)
    features = parts.features(number)  # of more rows, if a process adds some
    for begin in range(0, keys, AT_A_TIME):
        records = parts.read_records(number, begin, min(keys, begin + AT_A_TIME))
        crcs = records["crc"].tolist()
        for i in np.flatnonzero(have_keys(records)).tolist():
            row = begin + i
            if row >= len(features) or zlib.crc32(features[row]) != crcs[i]:
                damaged.append(row)
    if damaged:
        if repair:
            _blank(parts.folder, path, damaged)
        yield Damage(
            path,
            f"{len(damaged):,} of {keys:,} rows are damaged; they are not used",
            "repaired: they were taken out" if repair else REPAIR,
        )


def _blank(folder: Path, path: Path, rows: list[int]) -> None:
    """Take the keys of rows away; a training may have their features mapped, which stay."""
    with locked(folder / "lock", wait=PATIENCE), opened(path, os.O_WRONLY) as keys:
        for row in rows:
            os.lseek(keys, row * RECORD.itemsize, os.SEEK_SET)
            os.write(keys, bytes(RECORD.itemsize))
        os.fsync(keys)


def _of_run(parts: Parts, path: Path, repair: bool) -> Iterator[Damage]:
    """Compare an index with the keys that it is over."""
    try:
        run = run_of(path)
        wrong = "" if _agrees(parts, run.begin, run.end, run.heads_R, run.locations_R) else "wrong"
    except FileNotFoundError:  # merged by a process meanwhile
        return
    except ValueError:
        wrong = "cut off"
    if wrong:
        if repair:
            with locked(parts.folder / "lock", wait=PATIENCE), suppress(FileNotFoundError):
                path.unlink()
        yield Damage(
            path,
            f"the index of keys is {wrong}; rows may be computed again",
            "repaired: it was deleted, and is made again" if repair else REPAIR,
        )


def _agrees(
    parts: Parts, begin: int, end: int, heads_R: np.ndarray, locations_R: np.ndarray
) -> bool:
    if (heads_R[1:] < heads_R[:-1]).any():
        return False
    numbers, rows = split_locations(locations_R.astype(np.int64))
    if ((locations_R < begin) | (locations_R >= end)).any():
        return False
    of_all = 0
    (first, from_row), (last, to_row) = split_location(begin), split_location(end)
    for number in [each for each in parts.numbers() if first <= each <= last]:
        records = parts.records(number)
        here = numbers == number
        if (rows[here] >= len(records)).any():
            return False
        kept = np.ascontiguousarray(records[rows[here]])
        # a row that was taken out since has no key
        if ((heads_of(key_bytes(kept)) != heads_R[here]) & have_keys(kept)).any():
            return False
        span = records[from_row if number == first else 0 : to_row if number == last else None]
        of_all += int(have_keys(np.ascontiguousarray(span)).sum())
    return len(np.unique(locations_R)) == len(locations_R) >= of_all


def _of_index(path: Path) -> Iterator[Damage]:
    remedy = "delete it while nothing runs; files are read again"
    try:
        check_regular(path)
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            said = database.execute("pragma quick_check(1)").fetchone()[0]
    except FileNotFoundError:
        return
    except OSError as error:
        yield Damage(path, reason_of(error), remedy)
        return
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        yield Damage(path, f"the index of files is damaged ({said})", remedy)
