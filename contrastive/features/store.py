"""The features of one encoder on disk."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32


RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4")])


class Store:
    """The rows of one encoder on disk."""

    def __init__(self, root: Path, about: dict[str, Any]) -> None:
        text = json.dumps(about, sort_keys=True)
        self.width = int(about["out_dim"])
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / "lock")
        described = self.folder / "encoder.json"
        if not described.exists():
            described.write_text(json.dumps(about, indent=1), encoding="utf-8")

    def features(self) -> np.ndarray:
        """Return every row, memory-mapped."""
        if not (rows := self._size("features", 4 * self.width)):
            return np.zeros((0, self.width), np.float32)
        return np.memmap(self.folder / "features.bin", np.float32, "r", shape=(rows, self.width))

    def index(self, wanted: set[bytes]) -> dict[bytes, int]:
        """Return the row of each wanted key whose features are whole."""
        records = self._records()
        features = self.features()
        found: dict[bytes, int] = {}
        for row, key in enumerate(records["key"][: len(features)].tolist()):
            if key in found or key not in wanted:
                continue
            if zlib.crc32(features[row]) == records["crc"][row]:
                found[key] = row  # the first whole one, so that later runs read the same
        return found

    def append(self, keys: list[bytes], features: np.ndarray) -> None:
        """Add rows; a row that was written only in part before is overwritten."""
        features = np.ascontiguousarray(features, np.float32)
        records = np.array(
            [(key, zlib.crc32(row)) for key, row in zip(keys, features, strict=True)], RECORD
        )
        with self.lock:
            rows = min(self._size("keys", RECORD.itemsize), self._size("features", 4 * self.width))
            _write_at(self.folder / "features.bin", rows * 4 * self.width, features)
            _write_at(self.folder / "keys.bin", rows * RECORD.itemsize, records)

    def _size(self, name: str, row_bytes: int) -> int:
        path = self.folder / f"{name}.bin"
        return path.stat().st_size // row_bytes if path.exists() else 0

    def _records(self) -> np.ndarray:
        path = self.folder / "keys.bin"
        raw = path.read_bytes() if path.exists() else b""
        return np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)


def _write_at(path: Path, offset: int, data: np.ndarray) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(data.tobytes())
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
