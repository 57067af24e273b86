"""Whether all ranks of a run begin alike, compared before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from contrastive.data.samples import rows_of
from contrastive.evaluation.leakage import content_keys
from contrastive.nn.fingerprint import hash_tensors
from contrastive.training.batches import rows_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from contrastive.data.samples import Sample, Samples
    from contrastive.distributed.ranks import Ranks
    from contrastive.training.batches import TrainingBatches


REMEDY = "the data and the run's folder have to be the same on every machine"
OTHER_DATA = "the ranks have different data or checkpoints"
OTHER_ROWS = "the ranks have different rows, or others in order"
OTHER_FILES = "the files of the ranks hold different samples"


def check_same_rows(
    ranks: Ranks, samples: Samples, held_out: Samples | None, modalities: Sequence[str]
) -> None:
    """Insist that all ranks have as many rows, of which each encodes its share.

    And that those of evaluation hold the same: who embeds one embeds it for all.

    Raises:
        TrainingError: they do not.
    """
    if ranks.size == 1:
        return
    measured: Sequence[Sample] = [] if held_out is None else rows_of(held_out)
    counts = {"rows": len(rows_of(samples)), "held-out rows": len(measured)}
    ranks.check_same(OTHER_DATA, counts, REMEDY)
    found = {f"{len(measured)} held-out rows of SHA-256": rows_fingerprint(measured)[:16]}
    ranks.check_same(OTHER_ROWS, found, REMEDY)
    kept = [modality for modality in modalities if all(modality in row for row in measured)]
    files = {
        f"held-out {m} samples of SHA-256": hash_tensors([(m, torch.from_numpy(keys))])[:16]
        for m, keys in content_keys(measured, kept).items()
    }
    ranks.check_same(OTHER_FILES, files, REMEDY)


def check_same_start(
    ranks: Ranks, start: int, batches: TrainingBatches, seen: Mapping[str, Tensor]
) -> None:
    """Insist that all ranks begin at the same step, with the same rows and files."""
    if ranks.size == 1:
        return
    ranks.check_same(OTHER_DATA, {"first step": start, "usable rows": len(batches)}, REMEDY)
    rows = {f"{len(batches)} rows of SHA-256": batches.fingerprint[:16]}
    ranks.check_same(OTHER_ROWS, rows, REMEDY)
    files = {
        f"{m} samples of SHA-256": hash_tensors([(m, hashes)])[:16] for m, hashes in seen.items()
    }
    ranks.check_same(OTHER_FILES, files, REMEDY)
