"""Supervised contrastive learning: every row of either modality picks all others of its group.

Shapes: N rows of a, M rows of b, D wide, Z = N + M rows of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses import SupCon
from contrastive.losses.backends.pair_labels import matched_ids
from contrastive.losses.row_softmax import AnchorLoss, among, chosen, row_sums, softmax_loss

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Unfused


class SupConLoss(AnchorLoss[SupCon]):
    """Supervised contrastive learning; ``supcon`` has the equation."""

    options = ()

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
    log_scale: Tensor,
    execution: Unfused = "auto",
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
        execution: whether to hold all logits, or some rows of them at a time.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: the ids do not fit the embeddings.
    """
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    if a_ids is None or b_ids is None:
        a_ids, b_ids = (torch.arange(len(x), device=x.device) for x in (a, b))
    z = torch.cat([a, b])
    sums = row_sums(
        z,
        z,
        among(torch.cat([a_ids, b_ids])),
        log_scale=log_scale,
        positive_powers=(1.0,),
        chunked=chosen(execution, len(a) + len(b), len(a) + len(b)) == "chunked",
    )
    return softmax_loss(sums, sums.positive_logs[0], sums.negative_logs[0])
