"""Supervised contrastive learning: every row of either modality picks all others of its group.

Shapes: N rows of a, M rows of b, D wide, Z = N + M rows of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

from contrastive.distributed.global_batch import pair_shards
from contrastive.losses import SupCon
from contrastive.losses.arguments import (
    as_log_scale,
    check_devices,
    check_embeddings,
    check_options,
)
from contrastive.losses.auto_execution import choose_for, global_sizes, in_common_dtype
from contrastive.losses.backends.pair_labels import check_pair_counts, matched_ids
from contrastive.losses.backends.pair_sums import own_labels, own_sums, pair_sums
from contrastive.losses.execution import (
    all_logits,
    backend_of,
    gather_global_batch,
)
from contrastive.losses.global_labels import labels_of, swap_sides
from contrastive.losses.row_softmax import (
    AnchorLoss,
    AnchorSums,
    mean,
    softmax_loss,
    sums_of_logits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup, PairShards, RowShards
    from contrastive.losses import Execution, MatmulDtype
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.pair_labels import PairLabels


class SupConLoss(AnchorLoss[SupCon]):
    """Supervised contrastive learning; ``supcon`` has the equation."""

    options = ()
    fused = True

    def of_batch(self, *batch: Any, **how: Any) -> Tensor:
        """Return ``supcon`` of the batch."""
        return supcon(*batch, **how)

    def anchors_and_candidates(self, n: int, m: int) -> tuple[int, int]:
        """Return N + M twice: rows of both modalities are anchors, and candidates."""
        return n + m, n + m


def supcon(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float,
    execution: Execution = "auto",
    matmul_dtype: MatmulDtype = "auto",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    r"""Return the supervised contrastive loss, in nats.

    With z the rows of a and of b, logits ``x = similarity(z, z)``, and P(i) the other rows of the
    group of row i:

    .. math:: \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{e^{x_{ip}}}{\sum_{j \neq i} e^{x_{ij}}}

    The loss is the mean over the rows that have a positive, 0 if none has: L_out (Khosla et al.
    2020, arXiv:2004.11362, eq. 2, over 2N as their implementation has it). With ids that all
    differ, or none, it is NT-Xent (SimCLR: Chen et al. 2020, arXiv:2002.05709, eq. 1).

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        a_ids: ``[N]`` integers, the groups of a; without them, matched rows are a group.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: scalar, the logarithm of the inverse temperature.
        execution: how; ``auto_execution.choose`` says what ``auto`` is.
        matmul_dtype: as in ``execution.infonce``.
        group: the ranks whose batches form one global batch, as in ``execution.infonce``.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: the ids do not fit the embeddings.
    """
    check_embeddings(a, b, a_ids, b_ids)
    check_options(execution=execution, matmul_dtype=matmul_dtype)
    log_scale = as_log_scale(log_scale, None, a, b)
    check_devices(a, log_scale=log_scale)
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    shards = pair_shards(a, b, group)
    sizes = global_sizes(a, b, shards)
    check_pair_counts(*sizes)
    z = sum(sizes)
    how = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards, sizes=(z, z))
    if how == "eager":
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=shards)
        sums = _of_all_logits(a, b, a_ids, b_ids, log_scale, matmul_dtype)
        assert sums.positive_logs is not None
        return softmax_loss(sums, sums.positive_logs[0], sums.negative_logs[0])
    a, b, a_ids, b_ids, shards = swap_sides(*in_common_dtype(a, b), a_ids, b_ids, shards)
    return _by_passes(a, b, a_ids, b_ids, log_scale, partial(backend_of, how, matmul_dtype), shards)


def _of_all_logits(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    log_scale: Tensor,
    matmul_dtype: MatmulDtype,
) -> AnchorSums:
    if a_ids is None or b_ids is None:
        a_ids, b_ids = (torch.arange(len(x), device=x.device) for x in (a, b))
    z, ids = torch.cat([a, b]), torch.cat([a_ids, b_ids])
    same_ZZ = ids[:, None] == ids
    itself_ZZ = torch.eye(len(z), dtype=torch.bool, device=z.device)
    x_ZZ = all_logits(z, z.view_as(z), log_scale=log_scale, matmul_dtype=matmul_dtype)
    return sums_of_logits(x_ZZ, same_ZZ & ~itself_ZZ, ~same_ZZ, powers=(1.0,))


def _by_passes(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    log_scale: Tensor,
    backend_for: Callable[..., LossBackend],
    shards: PairShards | None,
) -> Tensor:
    """Take the sums between the sides, and within each, where symmetry halves the work."""
    labels, mine = labels_of(a, b, a_ids, b_ids, "multi", shards)
    of_each = (
        (a, a_ids, None if shards is None else shards.rows, labels.row_count_N),
        (b, b_ids, None if shards is None else shards.columns, labels.column_count_M),
    )
    sides = [_own_side(*side) for side in of_each]
    totals = [side.total_N for side in sides]
    if a_ids is not None:  # among all candidates, not among those of the other side
        rows_N = totals[0] if shards is None else shards.rows.own(totals[0])
        mine = replace(mine, row_count_N=rows_N, column_count_M=totals[1])
    across = pair_sums(a, b, log_scale, mine, backend=backend_for(a, b, mine), shards=shards)
    losses: list[Tensor] = []
    for (x, _, rows, _), side, between in zip(of_each, sides, across, strict=True):
        ranks = None if rows is None else rows.contiguous
        backend = backend_for(x, x, side.mine)
        within = own_sums(x, log_scale, side.mine, backend=backend, rows=ranks).in_order(side.order)
        log_N = torch.logaddexp(between.logs[0], within.logs[0])
        positive_N = between.positive + (0 if a_ids is None else within.positive)
        over_N = log_N - positive_N / side.total_N.clamp(min=1)
        losses.append(torch.where(side.total_N > 1, over_N, -logsigmoid(-over_N)))
    return mean(torch.cat(losses), torch.cat(totals) > 0)


@dataclass(frozen=True)
class _Side:
    """The rows of one modality among themselves."""

    mine: PairLabels
    """What this rank's rows are to all rows of the side."""
    order: Tensor | None
    """See ``own_labels``."""
    total_N: Tensor
    """How many positives each row of the global batch has in both modalities."""


def _own_side(x: Tensor, ids: Tensor | None, rows: RowShards | None, across_N: Tensor) -> _Side:
    """Return what the rows of one side are to each other, given their positives on the other."""
    labels, mine, order = own_labels(x, ids, rows, positives="multi")
    if ids is None:
        return _Side(mine, order, across_N)
    own_N = labels.row_count_N - 1  # without itself
    total_N = across_N + (own_N if order is None else own_N[order])
    ordered_N = (
        total_N if order is None else total_N.new_empty(len(total_N)).index_copy(0, order, total_N)
    )
    labels = replace(labels, row_count_N=ordered_N, column_count_M=ordered_N)
    return _Side(labels.block(mine.offset, mine.offset + len(x)), order, total_N)
