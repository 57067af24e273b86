"""Samples through a tower in batches of one size and shape, whatever they are and how many.

So a sample's embedding has the same bits alone, among others and in the last batch; with the
features of a frozen encoder at hand, too, and where ranks share the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.data.loading import OnBad, Prepared, uniform_batches
from contrastive.distributed.shared_work import shared_work
from contrastive.encoders.foreign_trial import check_foreign
from contrastive.errors import SpecError
from contrastive.model.foreign_heads import check_head
from contrastive.nn.modes import run_in_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from contrastive.distributed.shared_work import SharedWork
    from contrastive.features.cache import FeatureCache
    from contrastive.features.table import FeatureTable
    from contrastive.model.tower import TowerModule

READ_AT_ONCE = 4096
"""Cached features that are read at a time."""


def embedded_batches(
    tower: TowerModule,
    samples: Sequence[Any],
    device: torch.device,
    *,
    modality: str,
    cache: FeatureCache | None,
    batch_size: int,
    workers: int,
    on_bad: OnBad,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield indices and their embeddings ``[B, D]``, batch by batch, not in order.

    Ranks that share the work embed some of the batches each; all of them yield all.

    Args:
        tower: in eval mode.
        samples: raw samples of its modality.
        device: where the tower is.
        modality: whose tower it is.
        cache: keeps the features of a frozen encoder.
        batch_size: rows of every batch; what is missing in the last of each shape is filled up.
        workers: processes that decode samples.
        on_bad: called with the index and the problem of each sample that is broken.

    Raises:
        SpecError: a part of another package breaks its promises, or does not keep each row.
        FailedRank: another rank has failed.
    """
    encoder, spec, work = tower.encoder, tower.spec.encoder, shared_work()
    check_head(tower)
    call: Callable[..., Tensor] = tower
    if cache and tower.encoder_frozen:
        call = tower.project
        table = cache.table(spec, encoder, samples, on_bad=on_bad, workers=workers)
        batches = _cached_batches(
            table, _own(table.good.nonzero()[0].tolist(), work, batch_size), batch_size
        )
    else:
        check_foreign(spec, encoder, samples, workers=workers)

        def length(i: int) -> int:  # texts of a length fill batches of one shape
            return len(samples[i]) if work.size > 1 and isinstance(samples[i], str) else 0

        batches = uniform_batches(
            samples,
            _own(sorted(range(len(samples)), key=length), work, batch_size),
            encoder.preprocess,
            batch_size=batch_size,
            workers=workers,
        )

    def embedded(on_bad: OnBad) -> Iterator[tuple[list[int], Tensor]]:
        return _embedded(call, batches, device, modality, batch_size=batch_size, on_bad=on_bad)

    if work.size == 1:
        yield from embedded(on_bad)
        return
    notes: list[tuple[int, str]] = []
    own = [
        (indices, rows_BD.float().cpu().numpy())
        for indices, rows_BD in embedded(lambda index, problem: notes.append((index, problem)))
    ]
    found = work.all_gather(f"embeds {len(samples)} {modality} samples", (own, notes))
    for index, problem in sorted(note for _, noted in found for note in noted):
        on_bad(index, problem)
    for theirs, _ in found:
        for indices, rows_BD in theirs:
            yield indices, torch.from_numpy(rows_BD)


def _own(indices: Sequence[int], work: SharedWork, batch_size: int) -> list[int]:
    """Return the indices that this rank embeds: neighbours, such as texts of a length, together."""
    groups = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    return [index for group in work.own(groups) for index in group]


def _embedded(
    call: Callable[..., Tensor],
    batches: Iterator[Prepared],
    device: torch.device,
    modality: str,
    *,
    batch_size: int,
    on_bad: OnBad,
) -> Iterator[tuple[list[int], Tensor]]:
    for batch in batches:
        for index, problem in batch.problems.items():
            on_bad(index, problem)
        if size := len(batch.indices):
            inputs = {name: x.to(device) for name, x in batch.filled(batch_size).items()}
            rows_BD = run_in_precision(call, device, **inputs)
            expected = batch_size if batch.by_row else size
            if len(rows_BD) != expected:  # one row would be taken for all
                told = f"towers.{modality}: a batch of {expected} samples gives {len(rows_BD)}"
                raise SpecError(f"{told} embeddings; preprocess and module keep each row")
            yield batch.indices, rows_BD[:size]


def _cached_batches(table: FeatureTable, good: list[int], batch_size: int) -> Iterator[Prepared]:
    """Yield the features of good samples as what ``project`` takes."""
    at_once = max(1, READ_AT_ONCE // batch_size) * batch_size
    for start in range(0, len(good), at_once):
        some = good[start : start + at_once]
        features = table[some]
        for i in range(0, len(some), batch_size):
            rows = slice(i, i + batch_size)
            yield Prepared(some[rows], {"features_BF": features[rows]})
