"""The features of one encoder on disk.

Shapes: K keys, B rows that are added, F features.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.local_files import read_bounded
from contrastive.data.storage.atomic_files import flush_folder, replace_file, write_all
from contrastive.data.storage.file_locks import InUse, locked
from contrastive.features import key_index, parts
from contrastive.features.key_index import KeyIndex, heads_of, key_bytes
from contrastive.features.parts import (
    RECORD,
    Parts,
    location_of,
    names_of,
    opened,
    split_locations,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

FORMAT = 3
"""1 had rows whose last bits depend on what was encoded beside them; 2 knew nothing of nested
components, of other files than the encoder's own and of what its preprocessing runs. A change of
what encoders share, such as how images are decoded, raises it."""
MAX_ABOUT = 16_000_000  # bytes of an encoder's description
PATIENCE = 60.0  # seconds that another process may append; then features are computed, not kept
FLUSH_EVERY = 1.0  # seconds; what a crash of the system loses is computed again
ABOUT = "encoder.json"
CHECKED_AT_ONCE = 1 << 15  # rows
ATTEMPTS = 10  # to make a folder that another process deletes as it is not in use


def name_of(about: dict[str, Any]) -> str:
    """Return the name of an encoder's folder, by what describes it."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


class Store:
    """The rows of one encoder on disk; other processes do not delete them while it lives."""

    def __init__(self, root: Path, about: dict[str, Any]) -> None:
        """Open the store in ``root`` of what ``about`` describes, making it if need be.

        Raises:
            OSError: it cannot be made.
        """
        self.folder = root / name_of(about)
        self.is_new = False
        for attempt in range(ATTEMPTS):
            try:
                self._make(about)
                self.use = InUse(self.folder / ABOUT, wait=PATIENCE)
                break
            except (FileNotFoundError, FileExistsError):  # another process has just deleted it
                if attempt == ATTEMPTS - 1:
                    raise
        with suppress(OSError):  # it may be read alone
            os.utime(self.folder / ABOUT)  # when it was used last
        self.parts = Parts(self.folder, int(about["out_dim"]))
        self.index = KeyIndex(self.parts)
        self._unflushed: set[int] = set()
        self._flushed = time.monotonic()

    @classmethod
    def opened(cls, root: Path, about: dict[str, Any], *, make: bool) -> Store | None:
        """Return the store of what ``about`` describes; None if there is none and none is made."""
        if not make and not (root / name_of(about) / ABOUT).exists():
            return None
        return cls(root, about)

    @property
    def is_flushed(self) -> bool:
        """Whether all that was added is on the disk itself."""
        return not self._unflushed

    def outdated(self, before: int) -> int:
        """Return how many bytes beside this one have a format ``before`` that: no one reads them.

        An encoder's description that cannot be read counts for nothing.
        """
        total = 0
        for described in self.folder.parent.glob(f"*/{ABOUT}"):
            with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
                if int(json.loads(read_bounded(described, MAX_ABOUT)).get("format", 0)) < before:
                    total += sum(path.stat().st_size for path in described.parent.iterdir())
        return total

    def find(self, keys_K: np.ndarray) -> np.ndarray:
        """Return where each key ``[K, 32]`` is: ``[K]``, -1 where no row of it is whole.

        Of several whole rows it is the first, so that later runs read the same.
        """
        self.index.refresh()
        if self.index.tail_length > key_index.TAIL:
            with suppress(OSError), locked(self.folder / "lock", wait=0):
                self.index.refresh()
                self.index.extend()
        return self._find(keys_K)

    def features(self, part: int, rows: int = 0) -> np.ndarray:
        """Return the features of a part, mapped into memory: at least so many rows."""
        return self.parts.features(part, rows)

    def append(self, keys_B: np.ndarray, features_BF: np.ndarray) -> np.ndarray:
        """Add rows behind all that were ever written: a training may have those mapped.

        Rows that were written only in part stay, under a key that no sample has. What another
        process has added is not added again.

        Returns:
            Where each row is ``[B]``.
        """
        features_BF = np.ascontiguousarray(features_BF, np.float32)
        with self._locked():
            part = self._part_to_write()
            paths = [self.folder / name for name in names_of(part)]
            how = os.O_WRONLY | os.O_CREAT
            with opened(paths[0], how) as rows, opened(paths[1], how) as keys:
                self.index.refresh()
                found_B = self._find(keys_B)
                new = (found_B < 0).nonzero()[0]
                if len(new):
                    self.index.drop_unfit()
                    found_B[new] = self._write(part, rows, keys, keys_B[new], features_BF[new])
            if self.index.tail_length + len(new) > key_index.TAIL:
                with suppress(OSError):  # the rows are there, and found without it
                    self.index.refresh()
                    self.index.extend()
        if time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()
        return found_B

    def flush(self) -> None:
        """Write what was added to the disk itself.

        Raises:
            OSError: it cannot be written.
        """
        for part in sorted(self._unflushed):
            for name in names_of(part):
                with opened(self.folder / name, os.O_WRONLY) as file:
                    os.fsync(file)
        if self._unflushed:
            flush_folder(self.folder)
        self._unflushed.clear()
        self._flushed = time.monotonic()

    def _make(self, about: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / ABOUT
        if described.exists():
            return
        with self._locked():
            if not described.exists():
                self.is_new = True
                replace_file(described, json.dumps(about, indent=1).encode())

    def _part_to_write(self) -> int:
        part = max(self.parts.numbers(), default=0)
        with suppress(FileNotFoundError):
            full = (self.folder / names_of(part)[0]).stat().st_size >= parts.PART_BYTES
            return part + full
        return part

    def _write(
        self, part: int, rows: int, keys: int, keys_B: np.ndarray, features_BF: np.ndarray
    ) -> np.ndarray:
        """Write features, then keys, so that whoever sees a key may read its features."""
        records = np.zeros(len(keys_B), RECORD)
        key_bytes(records)[:] = keys_B
        records["crc"] = [zlib.crc32(row) for row in features_BF]
        row_bytes = 4 * self.parts.width
        known = os.fstat(keys).st_size // RECORD.itemsize
        row = max(known, -(-os.fstat(rows).st_size // row_bytes))
        self._unflushed.add(part)
        _write_at(rows, row * row_bytes, features_BF)
        records = np.concatenate([np.zeros(row - known, RECORD), records])
        _write_at(keys, known * RECORD.itemsize, records)
        return location_of(part, 0) | np.arange(row, row + len(keys_B), dtype=np.int64)

    def _find(self, keys_K: np.ndarray) -> np.ndarray:
        found_K = np.full(len(keys_K), -1, np.int64)
        heads_K = heads_of(keys_K)
        for run in self.index.sorted_parts():
            missing = (found_K < 0).nonzero()[0]
            for among, places in run.candidates(heads_K[missing]):
                unknown = found_K[missing[among]] < 0
                which, locations = missing[among][unknown], places[unknown]
                whole = self._whole(keys_K[which], locations)
                found_K[which[whole]] = locations[whole]
        self.parts.close_keys()
        return found_K

    def _whole(self, keys_K: np.ndarray, locations_K: np.ndarray) -> np.ndarray:
        """Return which rows have these keys, and features as they were written: ``[K]``."""
        whole_K = np.zeros(len(keys_K), np.bool_)
        order = locations_K.argsort()  # as they lie on the disk
        parts_K = split_locations(locations_K[order])[0]
        ends = np.append((np.diff(parts_K) > 0).nonzero()[0] + 1, len(order)).tolist()
        for begin, end in pairwise([0, *ends]):
            for i in range(begin, end, CHECKED_AT_ONCE):
                some = order[i : min(end, i + CHECKED_AT_ONCE)]
                whole_K[some] = self._whole_rows(int(parts_K[i]), keys_K[some], locations_K[some])
        return whole_K

    def _whole_rows(self, part: int, keys_K: np.ndarray, locations_K: np.ndarray) -> np.ndarray:
        rows_K = split_locations(locations_K)[1]
        most = int(rows_K.max(initial=-1)) + 1
        records, features = self.parts.records(part, most), self.parts.features(part, most)
        same_K = rows_K < min(len(records), len(features))
        kept = records[rows_K[same_K]]
        same_K[same_K] = (key_bytes(kept) == keys_K[same_K]).all(1)
        rows = rows_K[same_K]
        crcs = records["crc"][rows].tolist()
        pairs = zip(rows.tolist(), crcs, strict=True)
        same_K[same_K] = [zlib.crc32(features[row].data) == crc for row, crc in pairs]
        return same_K

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / "lock", wait=PATIENCE)


def _write_at(descriptor: int, offset: int, data: np.ndarray) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    write_all(descriptor, data.tobytes())
