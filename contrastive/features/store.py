"""The features of one encoder on disk."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.local_files import check_regular, read_bounded
from contrastive.data.atomic_files import replace_file, write_all
from contrastive.data.file_locks import locked

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

KEY_BYTES = 32
MAX_ABOUT = 16_000_000  # bytes of an encoder's description
PATIENCE = 60.0  # seconds that another process may append; then features are computed, not kept

RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4")])


class Store:
    """The rows of one encoder on disk."""

    def __init__(self, root: Path, about: dict[str, Any]) -> None:
        text = json.dumps(about, sort_keys=True)
        self.width = int(about["out_dim"])
        self._known = 0
        """Records that this process has looked at; others may come behind them."""
        self._others: dict[bytes, tuple[int, int]] = {}
        """Row and checksum of what other processes have added since the index was read."""
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        described = self.folder / "encoder.json"
        self.is_new = not described.exists()
        if self.is_new:
            with self._locked():
                replace_file(described, json.dumps(about, indent=1).encode())

    def outdated(self, before: int) -> int:
        """Return how many bytes beside this one have a format ``before`` that: no one reads them.

        An encoder's description that cannot be read counts for nothing.
        """
        total = 0
        for described in self.folder.parent.glob("*/encoder.json"):
            with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
                if int(json.loads(read_bounded(described, MAX_ABOUT)).get("format", 0)) < before:
                    total += sum(path.stat().st_size for path in described.parent.iterdir())
        return total

    def features(self) -> np.ndarray:
        """Return every row, memory-mapped."""
        if not (rows := self._size("features", 4 * self.width)):
            return np.zeros((0, self.width), np.float32)
        return np.memmap(self.folder / "features.bin", np.float32, "r", shape=(rows, self.width))

    def index(self, wanted: set[bytes]) -> dict[bytes, int]:
        """Return the row of each wanted key whose features are whole."""
        features = np.asarray(self.features())  # a row of a memory map takes three times as long
        records = self._records(len(features))
        self._known = len(records)
        self._others.clear()
        found: dict[bytes, int] = {}
        heads = records["key"].copy().view("<u8")[:: KEY_BYTES // 8]
        of_wanted = np.array([int.from_bytes(key[:8], "little") for key in wanted], np.uint64)
        rows = np.isin(heads, of_wanted).nonzero()[0]  # few are left if few are wanted
        kept = records[rows]
        triples = zip(rows.tolist(), kept["key"].tolist(), kept["crc"].tolist(), strict=True)
        for row, key, crc in triples:
            if key in found or key not in wanted:
                continue
            if zlib.crc32(features[row]) == crc:
                found[key] = row  # the first whole one, so that later runs read the same
        return found

    def append(self, keys: list[bytes], features: np.ndarray) -> None:
        """Add rows behind all that were ever written: a training may have those mapped.

        Rows that were written only in part stay, under a key that no sample has. What another
        process has added since this one has looked is not added again.
        """
        features = np.ascontiguousarray(features, np.float32)
        # on a network disk a file's size is known for sure when it has been opened
        with (
            self._locked(),
            _opened(self.folder / "features.bin", os.O_WRONLY | os.O_CREAT) as rows,
            _opened(self.folder / "keys.bin", os.O_WRONLY | os.O_CREAT) as keys_file,
        ):
            known = os.fstat(keys_file).st_size // RECORD.itemsize
            added = self._added(keys, known)
            new = [i for i, key in enumerate(keys) if key not in added]
            if not new:
                return
            features = features[new]
            records = np.array(
                [(keys[i], zlib.crc32(row)) for i, row in zip(new, features, strict=True)], RECORD
            )
            row = max(known, -(-os.fstat(rows).st_size // (4 * self.width)))
            _write_at(rows, row * 4 * self.width, features)
            records = np.concatenate([np.zeros(row - known, RECORD), records])
            _write_at(keys_file, known * RECORD.itemsize, records)
            self._known += len(records)

    def _added(self, keys: list[bytes], until: int) -> set[bytes]:
        """Return those of which others have added a whole row since the index was read."""
        features = np.asarray(self.features())
        if (begin := self._known) < until:
            path, offset = self.folder / "keys.bin", begin * RECORD.itemsize
            records = np.fromfile(path, RECORD, until - begin, offset=offset)
            pairs = zip(records["key"].tolist(), records["crc"].tolist(), strict=True)
            self._others |= {key: (row, crc) for row, (key, crc) in enumerate(pairs, begin)}
        self._known = until
        found = {key: self._others[key] for key in keys if key in self._others}
        return {
            key
            for key, (row, crc) in found.items()
            if row < len(features) and zlib.crc32(features[row]) == crc
        }

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / "lock", wait=PATIENCE)

    def _size(self, name: str, row_bytes: int) -> int:
        path = self.folder / f"{name}.bin"
        try:
            with _opened(path, os.O_RDONLY):
                return check_regular(path) // row_bytes
        except FileNotFoundError:
            return 0

    def _records(self, most: int) -> np.ndarray:
        rows = min(most, self._size("keys", RECORD.itemsize))
        return np.fromfile(self.folder / "keys.bin", RECORD, rows) if rows else np.empty(0, RECORD)


@contextmanager
def _opened(path: Path, how: int) -> Generator[int]:
    """Open a file in a block, without waiting for one that is a pipe."""
    how |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, how, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, offset: int, data: np.ndarray) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    write_all(descriptor, data.tobytes())
    os.fsync(descriptor)
