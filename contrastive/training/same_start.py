"""Whether all ranks of a run begin alike, compared before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.nn.fingerprint import hash_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from contrastive.distributed.ranks import Ranks
    from contrastive.training.batches import TrainingBatches


def check_same_start(
    ranks: Ranks, start: int, batches: TrainingBatches, seen: Mapping[str, Tensor]
) -> None:
    """Insist that all ranks begin at the same step, with the same rows and files."""
    if ranks.size == 1:
        return
    remedy = "the data and the run's folder have to be the same on every machine"
    what = "the ranks have different data or checkpoints"
    ranks.check_same(what, {"first step": start, "usable rows": len(batches)}, remedy)
    rows = {f"{len(batches)} rows of SHA-256": batches.fingerprint[:16]}
    ranks.check_same("the ranks have different rows, or others in order", rows, remedy)
    files = {
        f"{m} samples of SHA-256": hash_tensors([(m, hashes)])[:16] for m, hashes in seen.items()
    }
    ranks.check_same("the files of the ranks hold different samples", files, remedy)
