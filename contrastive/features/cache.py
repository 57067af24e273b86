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

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.config.arguments import count, path_of
from contrastive.console import bar
from contrastive.data.content_hash import sample_key
from contrastive.data.loading import OnBad, Prepared, first_bad_raises, prepared_batches
from contrastive.errors import BadSample
from contrastive.features.encoder_key import encoder_key
from contrastive.features.store import Store
from contrastive.nn.device import batch_size, device_of
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule


def default_folder() -> Path:
    """Return ``$CONTRASTIVE_CACHE``, or ``contrastive`` in the user's cache folder."""
    if folder := os.environ.get("CONTRASTIVE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contrastive"


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
    """A folder of features, shared by every run and process on this machine.

    Example:
        >>> cache = FeatureCache("features")
        >>> model.embed("image", [red, blue], cache=cache).shape
        torch.Size([2, 8])
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Keep features in ``folder``; ``default_folder()`` if None."""
        self.folder = default_folder() if folder is None else path_of("folder", folder)

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
        """
        workers = count("workers", workers, least=0)
        on_bad = on_bad or first_bad_raises(len(samples))
        keys = _keys(samples, module.modality, on_bad)
        store = Store(self.folder / "features", encoder_key(spec, module))
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


@torch.inference_mode()
def run_encoder(module: EncoderModule, batch: Prepared) -> np.ndarray:
    """Return ``[B, F]`` features in fp32, computed in eval mode without autocast."""
    device = device_of(module)
    with eval_mode(module), torch.autocast(device.type, enabled=False):
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        return module(**inputs).float().cpu().numpy()


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
