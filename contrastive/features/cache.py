"""Features of frozen encoders, computed once and kept on disk.

A row is found by its content, not by its path: the encoder's key hashes its spec, its
weights, its preprocessing and the versions of the packages that it runs; the sample's key hashes
its content. So training, evaluation and search share rows, and anything that changes misses.

On disk, a folder for each encoder, with ``encoder.json`` for people. Rows are appended batch by
batch, features before keys, so an encoding that was cut off goes on where it was.

Shapes: N samples, K distinct ones, B of a batch, F features.
"""

from __future__ import annotations

from copy import copy
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contrastive.config.arguments import count, path_of
from contrastive.config.local_files import cache_folder
from contrastive.console import bar
from contrastive.data.content_hash import keys_of
from contrastive.data.loading import OnBad, Prepared, first_bad_raises, uniform_batches
from contrastive.distributed.heartbeat import now
from contrastive.distributed.shared_hashing import share_hashing
from contrastive.distributed.shared_work import shared_work
from contrastive.encoders.foreign_trial import LOOKED_AT, check_foreign
from contrastive.errors import DataError, a_type
from contrastive.features.encoder_key import encoder_key
from contrastive.features.encoder_rows import EncoderRows, distinct_keys, tell_once
from contrastive.features.missing_shares import missing_shares
from contrastive.features.size_bound import size_bound
from contrastive.nn.device import batch_size, device_of
from contrastive.nn.embeddings import NOT_FINITE
from contrastive.nn.memory import told_memory
from contrastive.nn.modes import eval_mode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule
    from contrastive.features.table import FeatureTable


class FeatureCache:
    """A folder of features, shared by every run and process on this machine.

    Example:
        >>> cache = FeatureCache("features")
        >>> model.embed("image", [red, blue], cache=cache).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, folder: str | Path | None = None, *, max_size: int | str | None = None
    ) -> None:
        """Keep features in ``folder``; if None, in the user's own (``$CONTRASTIVE_CACHE``).

        Args:
            folder: where.
            max_size: bytes of features, or such as ``"50GB"``; if None,
                ``$CONTRASTIVE_CACHE_SIZE``, and without it there is no bound. Beyond it the
                encoders that were used longest ago are deleted, if no process uses them.

        Raises:
            SpecError: ``folder`` is no path, or ``max_size`` no size.
        """
        self.folder: Path | None = None
        self.max_bytes = size_bound(max_size)
        self.stores = True
        if folder is not None:
            self.folder = path_of("folder", folder)
            return
        try:
            self.folder = cache_folder()
        except ValueError as error:
            tell_once(f"{error}; features are not kept: set CONTRASTIVE_CACHE to a folder")

    def reading(self) -> FeatureCache:
        """Return the same cache, to which nothing is added: for texts that are asked for once."""
        found = copy(self)
        found.stores = False
        return found

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
        found = keys_of(samples, module.modality)
        found.report(on_bad)
        usable_N = found.good()
        distinct = distinct_keys(found.keys_D, found.which_N, usable_N)
        rows = EncoderRows(
            self.folder,
            encoder_key(spec, module),
            distinct.keys_K,
            stores=self.stores,
            max_bytes=self.max_bytes,
        )
        rows.find()
        work, what = shared_work(), f"{module.modality} samples"
        done_K = np.zeros(len(distinct.keys_K), np.bool_)
        problems: dict[int, str] = {}

        def missing() -> list[int]:
            return distinct.first_K[~(rows.there() | done_K)].tolist()

        for share in missing_shares(work, samples, what, missing, batch_size=batch_size(module)):
            odd = _encode(spec, module, samples, share, distinct.which_N, rows, workers=workers)
            for each in work.all_gather(f"has encoded {what}", odd):
                problems |= each
            done_K[distinct.which_N[np.array([*share, *problems], np.int64)]] = True
            if work.size > 1:  # the others have written meanwhile
                rows.find()
        rows.find()
        table = rows.table(distinct.which_N)
        for i in (usable_N & ~table.good).nonzero()[0].tolist():
            on_bad(i, problems[int(distinct.first_K[distinct.which_N[i]])])
        return table


def _encode(
    spec: Encoder,
    module: EncoderModule,
    samples: Sequence[Any],
    share: list[int],
    which_N: np.ndarray,
    rows: EncoderRows,
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
            rows.append(which_N[np.array(good, np.int64)], features[finite])
            odd = set(batch.indices) - set(good)
            problems |= dict.fromkeys(odd, NOT_FINITE.format("features are"))
            advance(len(batch.indices) + len(batch.problems), "")
    rows.flush()
    return problems


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
