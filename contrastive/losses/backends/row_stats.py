"""What follows from the sums of a row of InfoNCE: its loss, and its part in the gradient.

``all_pairs`` has the equations. Shapes: N rows (or columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RowStats:
    """What the second sweep needs of each row (or each column); see ``all_pairs``."""

    log_norm: Tensor
    log_norm_positives: Tensor
    positive_weight: Tensor


def row_stats(
    log: Tensor, positive: Tensor, count: Tensor, weight: Tensor
) -> tuple[Tensor, RowStats]:
    """Return the loss of each row (or column), unweighted, and its part in the gradient.

    Args:
        log: ``SoftmaxSums.row_log_N``.
        positive: ``SoftmaxSums.row_positive_N``.
        count: ``PairLabels.row_count_N``.
        weight: of a row that has a positive, scalar; 0 leaves the whole side out.
    """
    many, none = count > 1, count == 0
    count = count.to(log.dtype).clamp(min=1)
    target = positive / count
    over = log - target
    loss = torch.where(many, over, -logsigmoid(-over)).masked_fill(none, 0)
    total = torch.where(many, log, torch.logaddexp(log, target))
    weighted = (total - weight.log()).masked_fill(none, torch.inf)
    pull = weight * torch.where(many, 1 / count, over.sigmoid())
    return loss, RowStats(
        weighted, weighted.masked_fill(~many, torch.inf), pull.masked_fill(none, 0)
    )
