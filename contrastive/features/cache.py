"""Features of frozen encoders, computed once and kept on disk.

A row is found by its content, not by its path: the encoder's key hashes its spec, its
weights, its preprocessing and the versions of the packages that it runs; the sample's key hashes
its content. So training, evaluation and search share rows, and anything that changes misses.

On disk, a folder for each encoder: ``features.bin`` (fp32 rows), ``keys.bin`` (a 36-byte record for
each row: SHA-256 of the sample, CRC-32 of the row) and ``encoder.json`` (for people). Rows are
appended batch by batch, features before keys, so an encoding that was cut off goes on where it was.

Shapes: N samples, M rows on disk, F features.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import compress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.config.arguments import count, path_of
from contrastive.config.local_files import cache_folder
from contrastive.console import bar, say
from contrastive.data.content_hash import sample_keys
from contrastive.data.loading import OnBad, Prepared, first_bad_raises, uniform_batches
from contrastive.distributed.heartbeat import now
from contrastive.distributed.shared_hashing import share_hashing
from contrastive.distributed.shared_work import shared_work
from contrastive.encoders.foreign_trial import LOOKED_AT, check_foreign
from contrastive.errors import DataError, a_type
from contrastive.features.encoder_key import FORMAT, encoder_key
from contrastive.features.missing_shares import missing_shares
from contrastive.features.store import Store
from contrastive.nn.device import batch_size, device_of
from contrastive.nn.embeddings import NOT_FINITE
from contrastive.nn.memory import told_memory
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule


@dataclass(frozen=True)
class FeatureTable:
    """Features of N samples, read from disk as they are asked for."""

    features_MF: np.ndarray
    """Memory-mapped; in memory, if some could not be written."""
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
    """A folder of features, shared by every run and process on this machine.

    Example:
        >>> cache = FeatureCache("features")
        >>> model.embed("image", [red, blue], cache=cache).shape
        torch.Size([2, 8])
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Keep features in ``folder``; if None, in the user's own (``$CONTRASTIVE_CACHE``)."""
        self.folder: Path | None = None
        if folder is not None:
            self.folder = path_of("folder", folder)
            return
        try:
            self.folder = cache_folder()
        except ValueError as error:
            _tell_once(f"{error}; features are not kept: set CONTRASTIVE_CACHE to a folder")

    def table(
        self,
        spec: Encoder,
        module: EncoderModule,
        samples: Sequence[Any],
        *,
        on_bad: OnBad | None = None,
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
            SpecError: an encoder of another package breaks its promises.
        """
        workers = count("workers", workers, least=0)
        on_bad = on_bad or first_bad_raises(len(samples))
        now(f"encodes {module.modality} samples")
        share_hashing(samples, module.modality)
        keys = sample_keys(samples, module.modality, on_bad)
        rows = _Rows(self.folder, encoder_key(spec, module))
        rows.find({key for key in keys if key is not None})
        first = {key: i for i in reversed(range(len(keys))) if (key := keys[i])}
        work, what = shared_work(), f"{module.modality} samples"
        done: set[int] = set()
        problems: dict[int, str] = {}

        def missing() -> list[int]:
            there = rows.there()
            return [i for key, i in first.items() if key not in there and i not in done]

        for share in missing_shares(work, samples, what, missing, batch_size=batch_size(module)):
            found = _encode(spec, module, samples, share, keys, rows, workers=workers)
            for each in work.all_gather(f"has encoded {what}", found):
                problems |= each
            done |= {*share, *problems}
            if work.size > 1:  # the others have written meanwhile
                rows.find_more(first.keys() - rows.there())
        table = rows.table(keys)
        good_N = table.good
        for i, key in enumerate(keys):
            if key is not None and not good_N[i]:
                on_bad(i, problems[first[key]])
        return table


def _encode(
    spec: Encoder,
    module: EncoderModule,
    samples: Sequence[Any],
    share: list[int],
    keys: Sequence[bytes | None],
    rows: _Rows,
    *,
    workers: int,
) -> dict[int, str]:
    """Add the features of some samples to the rows; return the problems of those that are bad."""
    problems: dict[int, str] = {}
    if not share:
        return problems
    check_foreign(spec, module, [samples[i] for i in sorted(share)[:LOOKED_AT]], workers=workers)
    batches = uniform_batches(
        samples, share, module.preprocess, batch_size=batch_size(module), workers=workers
    )
    with bar(f"encoding {module.modality}", len(share)) as advance:
        for batch in batches:
            problems |= batch.problems
            features = run_encoder(module, batch, rows=batch_size(module))
            finite = [bool(np.isfinite(row).all()) for row in features]
            good = list(compress(batch.indices, finite))
            rows.append([cast("bytes", keys[i]) for i in good], features[finite])
            odd = set(batch.indices) - set(good)
            problems |= dict.fromkeys(odd, NOT_FINITE.format("features are"))
            advance(len(batch.indices) + len(batch.problems), "")
    return problems


class _Rows:
    """The features of one encoder: on disk; what cannot be written there, in memory."""

    def __init__(self, folder: Path | None, about: dict[str, Any]) -> None:
        self.width = int(about["out_dim"])
        self.known: dict[bytes, int] = {}
        self.unwritten: dict[bytes, np.ndarray] = {}
        self.store: Store | None = None
        if folder is not None:
            with self._told(folder):
                self.store = Store(folder / "features", about)
                if self.store.is_new and (unused := self.store.outdated(FORMAT)):
                    place, size = self.store.folder.parent, f"{unused / 1e6:,.1f} MB"
                    _tell_once(
                        f"{place}: {size} of features cached by an earlier version are not used; "
                        "to free them, delete that folder while nothing runs"
                    )

    def there(self) -> dict[bytes, Any]:
        """Return what there is, by key."""
        return self.known | self.unwritten if self.unwritten else self.known

    def find(self, wanted: set[bytes]) -> None:
        """Look up rows that are on disk; if that fails, nothing is written there either."""
        if self.store:
            with self._told(self.store.folder):
                self.known = self.store.index(wanted)
                return
            self.store = None

    def find_more(self, wanted: set[bytes]) -> None:
        """Look up rows that were written since."""
        if self.store and wanted:
            self.known |= self.store.index(wanted)

    def append(self, keys: list[bytes], features_BF: np.ndarray) -> None:
        """Add rows."""
        if self.store and not self.unwritten:
            with self._told(self.store.folder):
                self.store.append(keys, features_BF)
                return
        self.unwritten.update(zip(keys, features_BF, strict=True))

    def table(self, keys: Sequence[bytes | None]) -> FeatureTable:
        """Return the rows of samples, by their keys."""
        self.find_more({key for key in keys if key is not None} - self.there().keys())
        features = self.store.features() if self.store and self.known else self._none()
        known = self.known
        if self.unwritten:
            on_disk = features[list(known.values())]
            features = np.concatenate([on_disk, *(row[None] for row in self.unwritten.values())])
            known = {key: row for row, key in enumerate((*known, *self.unwritten))}
        rows = [-1 if key is None else known.get(key, -1) for key in keys]
        return FeatureTable(features, np.array(rows, dtype=np.int64))

    def _none(self) -> np.ndarray:
        return np.zeros((0, self.width), np.float32)

    @contextmanager
    def _told(self, folder: Path) -> Generator[None]:
        """Go on without the cache where the system refuses something within the block."""
        try:
            yield
        except OSError as error:
            _tell_once(
                f"{error.filename or folder}: {error.strerror or error}; these features are not "
                "kept; set CONTRASTIVE_CACHE to a folder that can be written"
            )


@cache
def _tell_once(line: str) -> None:
    say(line)


@torch.inference_mode()
def run_encoder(module: EncoderModule, batch: Prepared, *, rows: int) -> np.ndarray:
    """Return ``[B, F]`` features in fp32, computed in eval mode without autocast.

    A batch of fewer than ``rows`` is filled up to them.

    Raises:
        DataError: the encoder gave something else.
        OutOfMemory: it takes more memory than there is.
    """
    device, size = device_of(module), len(batch.indices)
    if not size:
        return np.zeros((0, module.out_dim), np.float32)
    total = max(size, rows) if batch.by_row else size
    what = f"encoding {total} {module.modality} samples at a time"
    with (
        told_memory(what, "choose a smaller encoder, or another device"),
        eval_mode(module),
        torch.autocast(device.type, enabled=False),
    ):
        inputs = {name: x.to(device) for name, x in batch.filled(rows).items()}
        found: Any = module(**inputs)
    shape = tuple(found.shape) if isinstance(found, Tensor) else None
    if shape != (total, module.out_dim) or found.is_complex():
        given = f"{found.dtype} of shape {shape}" if shape else a_type(found)
        msg = (
            f"{type(module).__name__} with out_dim {module.out_dim} gave {given} for {total} "
            "samples; its forward has to give [B, out_dim]"
        )
        raise DataError(msg)
    return found[:size].float().cpu().numpy()
