"""Features of frozen encoders, computed once and kept on disk.

A row is found by what it is made of, not by where it lies: the encoder's key hashes its spec, its
weights, its preprocessing and the versions of the packages that it runs; the sample's key hashes
its content. So training, evaluation and search share rows, and anything that changes misses.

On disk, a folder for each encoder: ``features.bin`` (fp32 rows), ``keys.bin`` (a 36-byte record for
each row: SHA-256 of the sample, CRC-32 of the row) and ``encoder.json`` (for people). Rows are
appended batch by batch, features before keys, so an encoding that was cut off goes on where it was.

Shapes: N samples, M rows on disk, F features.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from contrastive import __version__
from contrastive.console import bar
from contrastive.data.content_hash import sample_key
from contrastive.data.loading import OnBad, Prepared, prepared_batches, raise_bad
from contrastive.errors import BadSample, DataError

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Sequence

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule

FORMAT = 1
KEY_BYTES = 32
RECORD = np.dtype([("key", f"V{KEY_BYTES}"), ("crc", "<u4")])
# rows that an encoding computes, and may lose, at a time: on a CPU larger ones are slower, since
# their activations leave its caches
CPU_BATCH, GPU_BATCH = 16, 256


def default_folder() -> Path:
    """Return ``$CONTRASTIVE_CACHE``, or ``contrastive`` in the user's cache folder."""
    if folder := os.environ.get("CONTRASTIVE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive"


def weights_fingerprint(module: torch.nn.Module, *, only: Container[str] | None = None) -> str:
    """Return the SHA-256 of a module's parameters and buffers, names and shapes included.

    It is remembered until a tensor is replaced or changed in place.

    Args:
        module: whose they are.
        only: the names of those that count; all if None.
    """
    state = sorted(module.state_dict().items())
    if only is not None:
        state = [(name, tensor) for name, tensor in state if name in only]
    version = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in state)
    known = _fingerprints.get(module)
    if known is None or known[0] != version:
        known = _fingerprints[module] = version, _hash_tensors(state)
    return known[1]


_fingerprints: WeakKeyDictionary[torch.nn.Module, tuple[object, str]] = WeakKeyDictionary()


def _hash_tensors(state: list[tuple[str, Tensor]]) -> str:
    total = hashlib.sha256()
    for name, tensor in state:
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(cast("Any", flat.view(torch.uint8).numpy()))
    return total.hexdigest()


def encoder_key(spec: Encoder, module: EncoderModule) -> dict[str, Any]:
    """Return everything that decides an encoder's features, as JSON.

    Raises:
        DataError: its preprocessing has no stable ``repr``, so that a change would go unseen.
    """
    preprocess = repr(module.preprocess)
    if re.search(r"\bat 0x[0-9a-f]+", preprocess):
        msg = (
            f"the features of {type(spec).__name__} cannot be cached: the repr of its preprocess "
            f"does not say what it does ({preprocess[:80]}); set training.cache: off"
        )
        raise DataError(msg)
    return {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "weights": weights_fingerprint(module),
        "preprocess": preprocess,
        "package": type(spec).registry.package_of(type(spec)) or ("contrastive-kit", __version__),
        "code": [_source(type(spec)), _source(type(module))],
        "libraries": _libraries(module),
        "out_dim": module.out_dim,
    }


def _source(cls: type) -> str:
    """Return the SHA-256 of the file that a class is written in: an edited one misses."""
    try:
        return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # a notebook has no file
        return ""


def _libraries(module: torch.nn.Module) -> dict[str, str]:
    """Return the version of each package whose code an encoder runs: torch, timm, ..."""
    names = {type(part).__module__.partition(".")[0] for part in module.modules()}
    return {name: getattr(sys.modules[name], "__version__", "") for name in sorted(names)}


@dataclass(frozen=True)
class FeatureTable:
    """Features of N samples, read from disk as they are asked for."""

    features_MF: np.ndarray
    """Memory-mapped."""
    rows_N: np.ndarray
    """Row of each sample; -1 if it is bad."""

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, indices: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Return ``[len(indices), F]`` in fp32 on the CPU."""
        rows = self.rows_N[np.asarray(indices)]
        assert (rows >= 0).all(), "a bad sample has no features"
        return torch.as_tensor(self.features_MF[rows])

    @property
    def good(self) -> np.ndarray:
        """``[N]`` booleans: which samples have features."""
        return self.rows_N >= 0


class FeatureCache:
    """A folder of features, shared by every run and process on this machine."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep features in ``folder``; ``default_folder()`` if None."""
        self.folder = folder or default_folder()

    def table(
        self,
        spec: Encoder,
        module: EncoderModule,
        samples: Sequence[Any],
        *,
        on_bad: OnBad = raise_bad,
        workers: int = 0,
    ) -> FeatureTable:
        """Return the features of ``samples``, computing those that are not there yet.

        Args:
            spec: the encoder's config.
            module: the built encoder, on any device; it runs in eval mode and fp32.
            samples: raw samples of its modality; repeated ones cost nothing.
            on_bad: called with the index and the problem of each sample that cannot be used;
                by default, the first one raises.
            workers: processes that decode samples.

        Raises:
            BadSample: a sample is bad, by default.
        """
        keys = _keys(samples, module.modality, on_bad)
        store = _Store(self.folder / "features", encoder_key(spec, module))
        known = store.index({key for key in keys if key is not None})
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key and key not in known}
        missing = sorted(first.values(), key=lambda i: _length(samples[i]))
        problems: dict[bytes, str] = {}
        if missing:
            with bar(f"encoding {module.modality}", len(missing)) as advance:
                for batch in prepared_batches(
                    samples,
                    missing,
                    module.preprocess,
                    batch_size=batch_size(module),
                    workers=workers,
                ):
                    for index, problem in batch.problems.items():
                        problems[cast("bytes", keys[index])] = problem
                    if batch.indices:
                        features = run_encoder(module, batch)
                        store.append([cast("bytes", keys[i]) for i in batch.indices], features)
                    advance(len(batch.indices) + len(batch.problems), "")
            known = store.index({key for key in keys if key is not None})
        rows = np.full(len(keys), -1, dtype=np.int64)
        for i, key in enumerate(keys):
            if key in known:
                rows[i] = known[key]
            elif key is not None:
                on_bad(i, problems[key])
        return FeatureTable(store.features(), rows)


def device_of(module: torch.nn.Module) -> torch.device:
    """Return where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def batch_size(module: torch.nn.Module) -> int:
    """Return how many samples to encode at a time."""
    return CPU_BATCH if device_of(module).type == "cpu" else GPU_BATCH


@torch.inference_mode()
def run_encoder(module: EncoderModule, batch: Prepared) -> np.ndarray:
    """Return ``[B, F]`` features in fp32, computed in eval mode without autocast."""
    device = device_of(module)
    with eval_mode(module), torch.autocast(device.type, enabled=False):
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        return module(**inputs).float().cpu().numpy()


@contextmanager
def eval_mode(module: torch.nn.Module) -> Generator[None]:
    """Put a module in eval mode within a block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


class _Store:
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
        if features.shape != (len(keys), self.width):
            msg = (
                f"an encoder with out_dim {self.width} gave features of shape {features.shape} for "
                f"{len(keys)} samples; its forward has to give [B, out_dim]"
            )
            raise DataError(msg)
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


def _keys(samples: Sequence[Any], modality: str, on_bad: OnBad) -> list[bytes | None]:
    keys: list[bytes | None] = []
    for i, sample in enumerate(samples):
        try:
            keys.append(sample_key(sample, modality))
        except BadSample as error:
            on_bad(i, str(error))
            keys.append(None)
    return keys


def _length(sample: Any) -> int:
    """Sort key that puts texts of a length together, so that little is padded."""
    return len(sample) if isinstance(sample, str) else 0
