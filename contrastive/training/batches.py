"""Batches for training: which rows, in which order, as cached features or as live inputs.

Shapes: N rows, B rows of a batch, F features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contrastive.console import say
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.columns import chosen, ids_of, in_tuples, some_rows, sources_of, values_of
from contrastive.data.loading import Prepared, map_in_workers, merge, prepare
from contrastive.data.row_order import EpochRows, order_of
from contrastive.data.samples import check_modalities, rows_of
from contrastive.data.worker_processes import worker_count
from contrastive.distributed.sharding import whole_weights
from contrastive.encoders.device_normalisation import PixelNormalisation, bytes_first
from contrastive.encoders.foreign_trial import LOOKED_AT, check_foreign
from contrastive.encoders.trial import PROMISES
from contrastive.errors import DataError
from contrastive.model.foreign_heads import check_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrastive.data.samples import Preprocess, Sample, Samples
    from contrastive.distributed.ranks import Ranks
    from contrastive.features.cache import FeatureCache
    from contrastive.features.table import FeatureTable
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec


InputViews = list[dict[str, Tensor]]
"""Arguments of an encoder for the same samples, once or twice."""

Group = tuple[list[int], list[int]]
"""How often each row of a batch was read before, and the rows."""

Ready = tuple[list[int], dict[str, InputViews], dict[int, str]]
"""Rows of a batch, their inputs by modality, and the rows that were left out."""


@dataclass
class Batch:
    """B rows; every modality is in one of the two dicts."""

    ids: Tensor
    """``[B]`` group ids."""
    sources: list[str] = field(default_factory=list[str])
    """Where each row came from."""
    features: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """``[B, F]`` by modality, where the encoder is frozen and cached."""
    inputs: dict[str, InputViews] = field(default_factory=dict[str, InputViews])
    """Arguments of the encoder by modality, where it runs live; two views of those that are
    compared with themselves."""
    convert: dict[str, PixelNormalisation] = field(default_factory=dict[str, PixelNormalisation])
    """What makes of ``inputs``, on the device, what the encoder takes, where these are bytes."""


class TrainingBatches:
    """The training rows of a run."""

    def __init__(
        self,
        samples: Samples,
        model: ContrastiveModel,
        settings: TrainingSpec,
        ranks: Ranks,
        *,
        cache: FeatureCache | None,
    ) -> None:
        """Read the rows, and encode what is frozen if there is a cache.

        Raises:
            SpecError: an encoder does not keep its promises.
            DataError: there are fewer than two rows, or fewer in a batch than ranks, or too
                many are bad.
        """
        self.settings = settings
        self.ranks = ranks
        self.bad_rows = bad_rows_of(samples)
        for line in self.bad_rows.lines:  # found while the annotations were read
            say(line)
        self.bad_rows.on_report = say
        self.rows: Sequence[Sample] = rows_of(samples)
        check_modalities(self.rows, model.towers)
        with whole_weights(model):  # a pass over shards would leave some of them gathered
            for modality in model.towers:
                check_head(model.tower(modality))
                check_foreign(
                    model.spec.towers[modality].encoder,
                    model.tower(modality).encoder,
                    [row[modality] for row in self.rows[:LOOKED_AT]],
                    workers=worker_count(settings.workers),
                    promises=PROMISES,
                )
        self.total_rows = len(self.rows) + self.bad_rows.bad
        self.bad: set[int] = set()
        self.tables: dict[str, FeatureTable] = {}
        self.live: dict[str, Preprocess] = {}
        self.views = {modality: model.spec.views(modality) for modality in model.towers}
        augmented: set[str] = set()
        for modality in model.towers:
            tower = model.tower(modality)
            if cache and tower.encoder_frozen and tower.encoder.augment is None:
                self.tables[modality] = cache.table(
                    tower.spec.encoder,
                    tower.encoder,
                    values_of(self.rows, modality),
                    on_bad=self._report,
                    workers=worker_count(settings.workers),
                )
            else:
                self.live[modality] = tower.encoder.augment or tower.encoder.preprocess
                if tower.encoder.augment:
                    augmented.add(modality)
        self.augmented = frozenset(augmented)
        self.convert: dict[str, PixelNormalisation] = {}
        if takes_bytes(model.device):
            for modality, found in [(m, bytes_first(x)) for m, x in self.live.items()]:
                if found:
                    self.live[modality], self.convert[modality] = found
        self.bad_rows.check(self.total_rows)
        self.good = np.delete(np.arange(len(self.rows), dtype=np.int32), [*self.bad])
        if len(self.good) < 2:
            msg = f"split {settings.split!r} has {len(self.good)} usable rows; training needs two; "
            msg += "choose a split by training.split"
            raise DataError(msg)
        self.sources = sources_of(self.rows)
        self.batch_size = min(settings.batch_size, len(self.good))
        if self.batch_size < ranks.size:
            msg = (
                f"a batch of {self.batch_size} is too small for {ranks.size} ranks; raise "
                "training.batch_size or start fewer"
            )
            raise DataError(msg)
        self.steps_per_epoch = len(self.good) // (self.batch_size * settings.accumulate)
        if not self.steps_per_epoch:
            msg = (
                f"{len(self.good)} usable rows are fewer than a step of {settings.accumulate} "
                f"batches of {self.batch_size}; lower training.accumulate or training.batch_size"
            )
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.good)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the usable rows in order: their ids, texts and paths, not what files hold."""
        return rows_fingerprint(some_rows(self.rows, self.good))

    def example(self) -> Sample:
        """Return one row, to be looked at."""
        return self.rows[int(self.good[0])]

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches, one by one, of steps ``start`` to ``stop`` of the run."""
        groups = self._groups(start, stop)
        if not self.live:
            for _, indices in groups:
                yield self._batch(indices, {})
            return
        self.bad_rows.on_report = self.ranks.say  # each meets rows that the others do not
        samples = {modality: values_of(self.rows, modality) for modality in self.live}
        job = _PrepareBatch(samples, self.live, self.views, self.augmented, self.settings.seed)
        ready: Iterator[Ready] = map_in_workers(
            job, groups, workers=worker_count(self.settings.workers)
        )
        for indices, inputs, problems in ready:
            for index, problem in problems.items():
                self._report(index, problem)
            if len(indices) < (2 if self.ranks.size == 1 else 1):
                msg = f"a batch has {len(indices)} usable rows left; raise training.batch_size"
                raise DataError(msg)
            yield self._batch(indices, inputs)

    def _batch(self, indices: Sequence[int], inputs: dict[str, InputViews]) -> Batch:
        features = {modality: table[indices] for modality, table in self.tables.items()}
        sources = chosen(self.sources, indices)
        ids = torch.from_numpy(ids_of(some_rows(self.rows, indices)))
        return Batch(ids, sources, features, inputs, self.convert)

    def _groups(self, start: int, stop: int) -> Iterator[Group]:
        """Yield each batch, this rank's part of it."""
        order, rows = order_of(self.rows), EpochRows(np.empty(0, np.int64))
        a_step = self.settings.accumulate
        an_epoch = self.steps_per_epoch * a_step
        for number in range(start * a_step, stop * a_step):
            epoch, position = divmod(number, an_epoch)
            if position == 0 or not len(rows.rows_U):
                rows = order.of_epoch(
                    self.good,
                    seed=self.settings.seed,
                    epoch=epoch,
                    count=an_epoch * self.batch_size,
                )
            batch = slice(position * self.batch_size, (position + 1) * self.batch_size)
            indices = self.ranks.shard(rows.rows_U[batch].tolist())
            passes = [epoch] * len(indices)
            if rows.passes_U is not None:
                passes = self.ranks.shard(rows.passes_U[batch].tolist())
            yield passes, indices

    def _report(self, index: int, problem: str) -> None:
        """Count a bad row once, though each epoch meets it; say it once for all rows alike."""
        if index not in self.bad:
            self.bad.add(index)
            self.bad_rows.report(str(self.rows[index].get("source", f"row {index}")), problem)
            self.bad_rows.check(self.total_rows)


def rows_fingerprint(rows: Sequence[Sample]) -> str:
    """Return the SHA-256 of rows in order: their ids, texts and places, not what files hold."""
    total = hashlib.sha256()
    for part in in_tuples(rows, ("id", "text", "source")):
        total.update("".join(map(repr, part)).encode())
    return total.hexdigest()


def takes_bytes(device: torch.device) -> bool:
    """Whether images cross to a device as bytes; for a CPU, worker processes rather normalise."""
    return device.type != "cpu"


def augmentation_seed(seed: int, epoch: int, index: int, view: int = 0) -> int:
    """Return the seed of a sample's augmentation, a function of its arguments alone."""
    numbers = (seed, epoch, index, view) if view else (seed, epoch, index)
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@dataclass(frozen=True)
class _PrepareBatch:
    """What a worker process does for a step: decode and preprocess the live modalities."""

    samples: dict[str, Sequence[Any]]
    live: dict[str, Preprocess]
    views: dict[str, int]
    augmented: frozenset[str]
    seed: int

    def __getitem__(self, group: Group) -> Ready:
        passes, indices = group
        problems: dict[int, str] = {}
        while indices:  # a row that is bad in one modality has to leave the others too
            parts = {m: self._views(m, passes, indices) for m in self.live}
            found = {i: p for views in parts.values() for v in views for i, p in v.problems.items()}
            problems |= found
            if not found:
                inputs = {m: [view.inputs for view in views] for m, views in parts.items()}
                return indices, inputs, problems
            kept = [(n, i) for n, i in zip(passes, indices, strict=True) if i not in found]
            passes, indices = [n for n, _ in kept], [i for _, i in kept]
        return [], {}, problems

    def _views(self, modality: str, passes: list[int], indices: list[int]) -> list[Prepared]:
        samples = chosen(self.samples[modality], indices)
        if modality not in self.augmented:  # views differ by dropout alone
            return [prepare(self.live[modality], samples, indices)] * self.views[modality]
        views = range(self.views[modality])
        return [self._augmented(modality, samples, passes, indices, view) for view in views]

    def _augmented(
        self, modality: str, samples: list[Any], passes: list[int], indices: list[int], view: int
    ) -> Prepared:
        parts: list[Prepared] = []
        with torch.random.fork_rng(devices=[]):
            for index, sample, number in zip(indices, samples, passes, strict=True):
                seed = augmentation_seed(self.seed, number, index, view)
                torch.default_generator.manual_seed(seed)  # not CUDA's, which dropout uses
                parts.append(prepare(self.live[modality], [sample], [index]))
        return merge(parts)
