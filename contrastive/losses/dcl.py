"""Decoupled contrastive learning: InfoNCE whose positives leave the denominator.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses import DCL
from contrastive.losses.arguments import as_log_scale, check_embeddings, check_options
from contrastive.losses.row_softmax import (
    MASKED_LOGIT,
    AnchorLoss,
    AnchorSums,
    both_sides,
    mean,
)

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup, PairShards
    from contrastive.losses import Candidates, Direction, Execution, MatmulDtype, Positives


class DCLLoss(AnchorLoss[DCL]):
    """Decoupled contrastive learning; ``dcl`` has the equation."""

    options = (*AnchorLoss.options, "sigma")
    fused = True

    def of_batch(self, *batch: Any, **how: Any) -> Tensor:
        """Return ``dcl`` of the batch."""
        return dcl(*batch, **how)


def dcl(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float,
    positives: Positives = "multi",
    direction: Direction = "both",
    candidates: Candidates = "other",
    sigma: float | None = None,
    execution: Execution = "auto",
    matmul_dtype: MatmulDtype = "auto",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    r"""Return the decoupled contrastive loss, in nats; it may be negative.

    With logits ``x = similarity(a, b)``, row i has positives ``P(i)`` and negatives ``N(i)``:

    .. math:: \ell_i = \log \sum_{j \in N(i)} e^{x_{ij}}
              - \frac{w_i}{|P(i)|} \sum_{j \in P(i)} x_{ij}

    (Yeh et al. 2022, arXiv:2110.06848: L_DC for ``w = 1``.) The loss is the mean over the rows
    that have a positive and a negative, averaged with the same mean over the columns; 0 where
    there are none. ``P`` and ``N`` follow from the ids as in ``functional.infonce``: this is that
    loss without ``P(i)`` in the denominator.

    The paper has two views of one modality, and N(i) in both: ``candidates="both"``, where the own
    side's rows of the same group are left out too.

    With ``sigma``, a positive weighs the more the less similar it is (L_DCW): with
    :math:`c_i` the mean cosine of the positives and B rows,

    .. math:: w_i = 2 - \frac{e^{c_i / \sigma}}{\frac{1}{B} \sum_k e^{c_k / \sigma}}

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: scalar, the logarithm of the inverse temperature.
        positives: what rows of one group are to each other.
        direction: ``a_to_b`` is the mean over the rows alone, ``b_to_a`` that over the columns.
        candidates: where negatives come from.
        sigma: of the weights; None weighs all alike.
        execution: how; ``auto_execution.choose`` says what ``auto`` is.
        matmul_dtype: as in ``execution.infonce``.
        group: the ranks whose batches form one global batch, as in ``execution.infonce``.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: the ids do not fit the embeddings.
    """
    check_embeddings(a, b, a_ids, b_ids)
    log_scale = as_log_scale(log_scale, None, a, b)
    if sigma is not None:
        check_options(sigma=sigma)
    sides = both_sides(
        a,
        b,
        a_ids,
        b_ids,
        log_scale=log_scale,
        positives=positives,
        direction=direction,
        candidates=candidates,
        execution=execution,
        matmul_dtype=matmul_dtype,
        group=group,
    )
    return torch.stack([_loss(sums, log_scale, sigma) for sums in sides]).mean()


def _loss(sums: AnchorSums, log_scale: Tensor, sigma: float | None) -> Tensor:
    counted_N = (sums.positives_N > 0) & (sums.negatives_N > 0)
    target_N = sums.target_N
    if sigma is not None:
        cosine_N = target_N / log_scale.to(target_N.dtype).exp()
        share_N = (cosine_N / sigma).masked_fill(~counted_N, MASKED_LOGIT).softmax(0)
        target_N = target_N * (2 - counted_N.sum() * share_N)
    return mean(sums.negative_logs[0] - target_N, counted_N)
