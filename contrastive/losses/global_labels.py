"""What the rows of a global batch are to each other, on a rank that has some of them.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from contrastive.losses.backends.pair_labels import PairLabels, matched_ids

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards
    from contrastive.losses import Positives


def gather_ids(
    a: Tensor, b: Tensor, a_ids: Tensor | None, b_ids: Tensor | None, shards: PairShards
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return the ids of the global batch, on every rank; None for both without."""
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    if a_ids is None or b_ids is None:
        return None, None
    # both, though they are often the same: another rank may have given two
    return shards.rows.all_gather(a_ids), shards.columns.all_gather(b_ids)


def swap_sides(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    shards: PairShards | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, PairShards | None]:
    """Return a and b such that the rows of a rank are contiguous in the global a."""
    if shards is None or shards.rows.all_matched:
        return a, b, a_ids, b_ids, shards
    return b, a, a_ids if b_ids is None else b_ids, a_ids, shards.swapped()


def labels_of(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    positives: Positives,
    shards: PairShards | None,
) -> tuple[PairLabels, PairLabels]:
    """Return the labels of the global batch, and those of this rank's rows of a.

    The latter are the first rows only, where the others have no part in what rows choose.
    """
    if shards is None:
        labels = PairLabels.of(len(a), len(b), a_ids, b_ids, positives=positives, device=a.device)
        return labels, labels
    rows, columns = shards.rows, shards.columns
    ids = gather_ids(a, b, a_ids, b_ids, shards)
    labels = PairLabels.of(rows.total, columns.total, *ids, positives=positives, device=a.device)
    if labels.kind != "groups":
        return labels, labels.block(rows.start, rows.start + rows.own_matched)
    assert labels.a_ids_N is not None
    mine = replace(
        labels, a_ids_N=rows.own(labels.a_ids_N), row_count_N=rows.own(labels.row_count_N)
    )
    return labels, mine
