"""InfoNCE in which a negative counts the more the closer it is.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.losses import HardNegative
from contrastive.losses.arguments import as_log_scale, check_embeddings, check_options
from contrastive.losses.row_softmax import (
    MASKED_LOGIT,
    AnchorLoss,
    AnchorSums,
    both_sides,
    softmax_loss,
)

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup, PairShards
    from contrastive.losses import Candidates, Direction, MatmulDtype, Positives, Unfused


class HardNegativeLoss(AnchorLoss[HardNegative]):
    """InfoNCE with hard negatives; ``hard_negative`` has the equation."""

    options = (*AnchorLoss.options, "beta", "tau_plus")

    def of_batch(self, *batch: Any, **how: Any) -> Tensor:
        """Return ``hard_negative`` of the batch."""
        return hard_negative(*batch, **how)


def hard_negative(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float,
    beta: float,
    tau_plus: float = 0.0,
    positives: Positives = "multi",
    direction: Direction = "both",
    candidates: Candidates = "other",
    execution: Unfused = "auto",
    matmul_dtype: MatmulDtype = "auto",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    r"""Return InfoNCE with importance-weighted and debiased negatives, in nats.

    With logits ``x = similarity(a, b)``, row i has positives ``P(i)`` and negatives ``N(i)``:

    .. math:: \ell_i = \log \Bigl( \sum_{j \in P(i)} e^{x_{ij}} + G_i \Bigr)
              - \frac{1}{|P(i)|} \sum_{j \in P(i)} x_{ij}

    .. math:: G_i = \max \Bigl( \frac{|N(i)|}{1 - \tau^+} \bigl( E_{N(i)} - \tau^+ E_{P(i)} \bigr),
              \; |N(i)| \, e^{-s} \Bigr), \qquad
              E_S = \sum_{j \in S} e^{\beta x_{ij}} e^{x_{ij}} \Big/ \sum_{j \in S} e^{\beta x_{ij}}

    (Robinson et al. 2021, arXiv:2010.04592, their objective with its expectations estimated by
    importance sampling and Q the number of negatives, as their implementation has it. The maximum
    is that of Chuang et al. 2020, arXiv:2007.00224: negatives cannot add less, with ``s =
    exp(log_scale)``.) The weights have gradients, as theirs.

    The loss is the mean over the rows that have a positive, averaged with the same mean over the
    columns. ``P`` and ``N`` follow from the ids as in ``functional.infonce``, which this is for
    ``beta = tau_plus = 0``. For ``tau_plus = 0`` it is HN-NCE with alpha = 1, both directions
    (Radenovic et al. 2023, arXiv:2301.02280). The paper has two views of one modality, and N(i) in
    both: ``candidates="both"``, where the own side's rows of the same group are left out too.

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: scalar, the logarithm of the inverse temperature.
        beta: at least 0; how much hard negatives count.
        tau_plus: from 0 to less than 1; share of negatives that are unknown positives.
        positives: what rows of one group are to each other.
        direction: ``a_to_b`` is the mean over the rows alone, ``b_to_a`` that over the columns.
        candidates: where negatives come from.
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
    check_options(beta=beta, tau_plus=tau_plus)
    if cast("str", execution) == "fused":
        msg = "hard_negative has no execution fused; take auto, eager or chunked"
        raise ValueError(msg)
    sides = both_sides(
        a,
        b,
        a_ids,
        b_ids,
        log_scale=log_scale,
        positives=positives,
        direction=direction,
        candidates=candidates,
        powers=(1.0, 1.0 + beta, beta),
        execution=execution,
        matmul_dtype=matmul_dtype,
        group=group,
    )
    losses: list[Tensor] = []
    for sums in sides:
        assert sums.positive_logs is not None
        negative_log_N = _log_negatives(sums, sums.positive_logs, log_scale, tau_plus)
        losses.append(softmax_loss(sums, sums.positive_logs[0], negative_log_N))
    return torch.stack(losses).mean()


def _log_negatives(
    sums: AnchorSums, positive_logs: Tensor, log_scale: Tensor, tau_plus: float
) -> Tensor:
    """Return ``[N]``, the logarithm of G; that of nothing where there are no negatives."""
    _, hard_positive_N, positive_weight_N = positive_logs
    _, hard_N, weight_N = sums.negative_logs
    log_count_N = sums.negatives_N.clamp(min=1).to(hard_N.dtype).log()
    log_N = hard_N - weight_N + log_count_N
    if tau_plus:
        of_many = hard_positive_N - positive_weight_N
        positive_N = torch.where(sums.positives_N > 1, of_many, sums.target_N)
        excess_N = math.log(tau_plus) + positive_N + log_count_N - log_N
        left_N = ~(excess_N >= 0)  # something is left of the positives' share; or it is NaN
        rest_N = torch.log(-torch.expm1(torch.where(left_N, excess_N, -1)))
        debiased_N = log_N + rest_N - math.log1p(-tau_plus)
        least_N = log_count_N - log_scale.to(hard_N.dtype).exp()
        log_N = torch.where(left_N, torch.maximum(debiased_N, least_N), least_N)
    return torch.where(sums.negatives_N > 0, log_N, MASKED_LOGIT)
