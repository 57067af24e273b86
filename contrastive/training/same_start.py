"""Whether all ranks of a run begin alike, compared before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from contrastive.data.samples import rows_of
from contrastive.evaluation.leakage import content_keys
from contrastive.nn.fingerprint import hash_tensors
from contrastive.training.batches import rows_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.distributed.ranks import Ranks
    from contrastive.training.batches import TrainingBatches


def check_same_start(
    ranks: Ranks,
    start: int,
    batches: TrainingBatches,
    seen: Mapping[str, Tensor],
    held_out: Samples | None,
) -> None:
    """Insist that all ranks begin at the same step, with the same rows and files.

    Those that they measure, too: each embeds its share of them.
    """
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
    if held_out is not None:
        measured = rows_of(held_out)
        ranks.check_same(what, {"held-out rows": len(measured)}, remedy)
        rows = {f"{len(measured)} held-out rows of SHA-256": rows_fingerprint(measured)[:16]}
        ranks.check_same("the ranks have different rows, or others in order", rows, remedy)
        hashed = [modality for modality in seen if all(modality in row for row in measured)]
        files = {
            f"held-out {m} samples of SHA-256": hash_tensors([(m, torch.tensor(keys))])[:16]
            for m, keys in content_keys(measured, hashed).items()
        }
        ranks.check_same("the files of the ranks hold different samples", files, remedy)
