"""Embed many samples piece by piece; ranks that share the work embed every so-many-th piece each.

A piece has the same samples whatever the number of ranks, so that its embeddings are the same, too.
"""

from __future__ import annotations

from itertools import chain, compress
from typing import TYPE_CHECKING, Any, NamedTuple

from contrastive.data.loading import prepared_batches
from contrastive.distributed.shared_work import shared_work
from contrastive.encoders.foreign_trial import check_foreign
from contrastive.errors import SpecError
from contrastive.model.foreign_heads import check_head
from contrastive.nn.embeddings import NOT_FINITE
from contrastive.nn.modes import run_in_precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from torch import Tensor

    from contrastive.data.loading import OnBad, Prepared
    from contrastive.distributed.shared_work import SharedWork
    from contrastive.features.cache import FeatureCache, FeatureTable
    from contrastive.model.tower import TowerModule

HEAD_BATCH = 4096
"""Cached features that go through a head at a time: it is cheap, memory is bounded."""


class EmbeddedPiece(NamedTuple):
    """Some of the samples, embedded."""

    indices: list[int]
    """Which, without those that could not be prepared."""
    embeddings: np.ndarray | None
    """``[len(indices), D]`` in fp32, zero where they are not finite; None if there are none."""
    problems: list[tuple[int, str]]
    """Samples that are bad, or whose embeddings are not finite, and why."""


def embedded_pieces(
    tower: TowerModule,
    modality: str,
    samples: Sequence[Any],
    cache: FeatureCache | None,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    on_bad: OnBad,
) -> Iterator[EmbeddedPiece]:
    """Yield the samples in pieces, in order; on ranks that share the work, all of them on each.

    Args:
        tower: in eval mode.
        modality: its own.
        samples: of that modality.
        cache: keeps the features of a frozen encoder.
        device: of the tower.
        batch_size: samples that are encoded at a time.
        workers: processes that decode samples.
        on_bad: is told the samples that have no features, of a frozen encoder.

    Raises:
        SpecError: a part of somebody else does not keep each row.
        FailedRank: a rank has failed.
    """
    check_head(tower)
    encoder, spec, work = tower.encoder, tower.spec.encoder, shared_work()
    if cache and tower.encoder_frozen:
        table = cache.table(spec, encoder, samples, on_bad=on_bad, workers=workers)
        own = _projected(tower, modality, table, work, device)
    else:
        check_foreign(spec, encoder, samples, workers=workers)
        groups = work.own(_groups(range(len(samples)), batch_size))
        prepared = prepared_batches(
            samples, [*chain(*groups)], encoder.preprocess, batch_size=batch_size, workers=workers
        )
        own = _live(tower, modality, prepared, device)
    if work.size == 1:
        yield from own
        return
    dealt = work.all_gather(f"embeds {len(samples)} {modality} samples", list(own))
    for turn in range(max(map(len, dealt))):
        yield from (pieces[turn] for pieces in dealt if turn < len(pieces))


def _projected(
    tower: TowerModule, modality: str, table: FeatureTable, work: SharedWork, device: torch.device
) -> Iterator[EmbeddedPiece]:
    """Yield what the head makes of the features of this rank's pieces."""
    for rows in work.own(_groups(table.good.nonzero()[0].tolist(), HEAD_BATCH)):
        embeddings = run_in_precision(tower.project, device, table[rows].to(device))
        yield _piece(modality, rows, embeddings)


def _live(
    tower: TowerModule, modality: str, prepared: Iterator[Prepared], device: torch.device
) -> Iterator[EmbeddedPiece]:
    for batch in prepared:
        piece = EmbeddedPiece([], None, [])
        if batch.indices:
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            embeddings = run_in_precision(tower, device, **inputs)
            piece = _piece(modality, batch.indices, embeddings)
        yield piece._replace(problems=[*batch.problems.items(), *piece.problems])


def _groups(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[i : i + size]) for i in range(0, len(indices), size)]


def _piece(modality: str, indices: list[int], embeddings: Tensor) -> EmbeddedPiece:
    rows = embeddings.float().cpu()
    if len(rows) != len(indices):  # one row would be taken for all
        told = f"towers.{modality}: {len(indices)} samples give {len(rows)} embeddings"
        raise SpecError(f"{told}; preprocess and module keep each row")
    finite = rows.isfinite().all(-1)
    problems = [(i, NOT_FINITE.format("embedding is")) for i in compress(indices, ~finite)]
    return EmbeddedPiece(indices, rows.where(finite[:, None], 0).numpy(), problems)
