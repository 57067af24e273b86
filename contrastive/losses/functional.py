"""The losses as plain functions of tensors: the contract that every execution computes.

Arguments come in one order everywhere: embeddings a and b, ids of a and b, then by keyword
``log_scale``, ``bias``, ``positives``. Row i of a and row i of b are a matched pair, for
i < min(N, M); the rows beyond are negatives, unless their ids say otherwise.

Shapes: N rows of a, M rows of b, D wide, K = min(N, M) matched pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import torch
from torch.nn.functional import logsigmoid, pad

from contrastive.losses.arguments import (
    as_log_scale,
    as_scalar,
    check_embeddings,
    check_options,
)
from contrastive.losses.backends.pair_labels import check_pair_counts, matched_ids

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Direction, Positives

__all__ = [
    "accuracy",
    "collisions",
    "infonce",
    "infonce_from_logits",
    "sigmoid",
    "sigmoid_from_logits",
    "similarity",
]

# A logit that takes no part. Finite, because a softmax over nothing but -inf has NaN gradients.
MASKED_LOGIT = -1e30


def similarity(a: Tensor, b: Tensor, *, log_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the logits ``s * a @ b.T + bias`` with ``s = exp(log_scale)``.

    They are computed in fp32 even under autocast, and in float64 if an embedding is float64.

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        log_scale: scalar, the logarithm of the inverse temperature.
        bias: scalar, added to every logit.

    Returns:
        ``[N, M]``.

    Example:
        >>> similarity(torch.eye(2), torch.eye(2), log_scale=torch.tensor(0.0))
        tensor([[1., 0.],
                [0., 1.]])
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        scaled_ND = a.to(dtype) * log_scale.to(dtype).exp()  # not the product, which is larger
        b_DM = b.to(dtype).T
        return scaled_ND @ b_DM if bias is None else torch.addmm(bias.to(dtype), scaled_ND, b_DM)


def infonce(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float | None = None,
    temperature: Tensor | float | None = None,
    positives: Positives = "multi",
    direction: Direction = "both",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the InfoNCE loss, in nats.

    With logits ``x = similarity(a, b)``, row i has positives ``P(i)`` and candidates ``C(i)``:

    .. math:: \ell_i = \log \sum_{j \in C(i)} e^{x_{ij}} - \frac{1}{|P(i)|} \sum_{j \in P(i)} x_{ij}

    - ``multi``: ``P(i)`` is every j with ``b_ids[j] == a_ids[i]``, ``C(i)`` every j: cross
      entropy with a target uniform over the positives, the L_out of SupCon (Khosla et al. 2020,
      arXiv:2004.11362, eq. 2).
    - ``mask``: ``P(i) = {i}``; ``C(i)`` lacks every other j with ``b_ids[j] == a_ids[i]``.
    - ``ignore``: ``P(i) = {i}``, ``C(i)`` every j; ids are not used (van den Oord et al. 2018,
      arXiv:1807.03748, eq. 4; CLIP, Radford et al. 2021, arXiv:2103.00020, figure 3).

    The loss is the mean over the rows that have a positive, averaged with the same mean over the
    columns; 0 where nothing has a positive. Without ids every row is a group of its own and the
    three settings agree. Loss and gradients keep their relative precision when the loss is tiny.

    With label smoothing :math:`\epsilon`, the target gives each candidate :math:`\epsilon / |C(i)|`
    and the positives the rest (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: the logarithm of the inverse temperature: a scalar tensor or a number.
        temperature: the temperature, in place of ``log_scale``.
        positives: what rows of one group are to each other.
        direction: ``a_to_b`` is the mean over the rows alone, ``b_to_a`` that over the columns.
        label_smoothing: share of the target that is spread over all candidates, from 0 to 1.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: a or b is no matrix of embeddings, the ids do not fit them, or there are no
            pairs; or not one of ``log_scale`` and ``temperature`` is given.

    Example:
        >>> a = b = torch.eye(4)  # four matched pairs, the others at right angles
        >>> infonce(a, b, temperature=0.5)  # ln(1 + 3 exp(-2))
        tensor(0.3408)
    """
    check_embeddings(a, b, a_ids, b_ids)
    logits_NM = similarity(a, b, log_scale=as_log_scale(log_scale, temperature, a, b))
    return infonce_from_logits(
        logits_NM,
        a_ids,
        b_ids,
        positives=positives,
        direction=direction,
        label_smoothing=label_smoothing,
    )


def infonce_from_logits(
    logits_NM: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    positives: Positives = "multi",
    direction: Direction = "both",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return ``infonce`` of given ``[N, M]`` logits.

    Example:
        >>> infonce_from_logits(torch.zeros(4, 4))  # chance: ln 4
        tensor(1.3863)
    """
    check_options(positives=positives, direction=direction, label_smoothing=label_smoothing)
    if a_ids is None and b_ids is None:
        positives = "ignore"  # the same loss, and the cheapest way to it
    positive_NM, negative_NM = _roles(logits_NM, a_ids, b_ids, positives)
    dims = {"both": (1, 0), "a_to_b": (1,), "b_to_a": (0,)}[direction]
    loss_of = _group_loss if positives == "multi" else _partner_loss
    losses = [loss_of(logits_NM, positive_NM, negative_NM, dim) for dim in dims]
    if label_smoothing:
        gaps = [_gap(logits_NM, positive_NM, negative_NM, dim) for dim in dims]
        losses = [x + label_smoothing * gap for x, gap in zip(losses, gaps, strict=True)]
    return torch.stack(losses).mean()


def sigmoid(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float | None = None,
    temperature: Tensor | float | None = None,
    bias: Tensor | float,
    positives: Positives = "multi",
) -> Tensor:
    r"""Return the sigmoid loss of SigLIP, in nats per matched pair.

    With logits ``x = similarity(a, b) + bias`` and ``K = min(N, M)``:

    .. math:: L = -\frac{1}{K} \sum_{ij} \log \sigma(z_{ij} x_{ij})

    (Zhai et al. 2023, arXiv:2303.15343, algorithm 1.) The labels z are +1 for positives and -1
    for negatives:

    - ``multi``: positives are all pairs with ``a_ids[i] == b_ids[j]``; the rest are negatives.
    - ``mask``: positives are the matched pairs; other pairs with equal ids are left out.
    - ``ignore``: positives are the matched pairs; the rest are negatives; ids are not used.

    Without ids every row is a group of its own and the three settings agree.

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: the logarithm of the inverse temperature: a scalar tensor or a number.
        temperature: the temperature, in place of ``log_scale``.
        bias: scalar, added to every logit; negative, as most pairs are.
        positives: what rows of one group are to each other.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: a or b is no matrix of embeddings, the ids do not fit them, or there are no
            pairs; or not one of ``log_scale`` and ``temperature`` is given.

    Example:
        >>> sigmoid(torch.eye(2), torch.eye(2), temperature=0.1, bias=-10.0)
        tensor(0.6932)
    """
    check_embeddings(a, b, a_ids, b_ids)
    log_scale = as_log_scale(log_scale, temperature, a, b)
    logits_NM = similarity(a, b, log_scale=log_scale, bias=as_scalar(bias, a, b))
    return sigmoid_from_logits(logits_NM, a_ids, b_ids, positives=positives)


def sigmoid_from_logits(
    logits_NM: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    positives: Positives = "multi",
) -> Tensor:
    """Return ``sigmoid`` of given ``[N, M]`` logits.

    Example:
        >>> sigmoid_from_logits(torch.zeros(2, 2))  # 4 pairs of ln 2, over 2 matched pairs
        tensor(1.3863)
    """
    check_options(positives=positives)
    positive_NM, negative_NM = _roles(logits_NM, a_ids, b_ids, positives)
    signed_NM = torch.where(positive_NM, logits_NM, -logits_NM)
    if positives == "mask":
        signed_NM = signed_NM.masked_fill(~(positive_NM | negative_NM), -MASKED_LOGIT)
    return -logsigmoid(signed_NM).sum() / min(logits_NM.shape)


@torch.no_grad()
def accuracy(
    logits_NM: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
) -> Tensor:
    """Return how often the best match is right, rows and columns averaged.

    A row is right if its largest logit is in a column of its group; without ids, in its own.
    Rows whose group has no column do not count. What a loss makes of equal ids does not matter.

    Args:
        logits_NM: ``[N, M]``.
        a_ids: ``[N]`` integers, the groups of the rows.
        b_ids: ``[M]`` integers, the groups of the columns; the same as ``a_ids`` if None.

    Returns:
        Scalar between 0 and 1.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [3.0, 4.0]]))  # both rows, one of two columns
        tensor(0.7500)
    """
    same_NM = _same_group(logits_NM, a_ids, b_ids)

    def share(dim: int) -> Tensor:
        right = same_NM.gather(dim, logits_NM.argmax(dim, keepdim=True))
        return right.sum() / same_NM.any(dim).sum().clamp(min=1)

    return (share(0) + share(1)) / 2


def collisions(ids: Tensor) -> Tensor:
    """Return how many of the ``[N]`` rows share their group id with another row, as a scalar.

    Example:
        >>> collisions(torch.tensor([7, 7, 9]))
        tensor(2)
    """
    ordered = ids.sort().values  # unlike torch.unique, sorting does not wait for the device
    equal = ordered[1:] == ordered[:-1]
    return (pad(equal, (1, 0)) | pad(equal, (0, 1))).sum()


def _same_group(logits_NM: Tensor, a_ids: Tensor | None, b_ids: Tensor | None) -> Tensor:
    """Return the ``[N, M]`` mask of pairs of one group: matched pairs, where there are no ids."""
    n, m = logits_NM.shape
    a_ids, b_ids = matched_ids(n, m, a_ids, b_ids)
    if a_ids is None or b_ids is None:
        return torch.eye(*logits_NM.shape, dtype=torch.bool, device=logits_NM.device)
    return a_ids[:, None] == b_ids


def _roles(
    logits_NM: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    positives: Positives,
) -> tuple[Tensor, Tensor]:
    """Return the ``[N, M]`` masks of positives and of negatives; a pair may be neither."""
    n, m = logits_NM.shape
    check_pair_counts(n, m)
    partner_NM = _same_group(logits_NM, None, None)
    match positives:
        case "multi":
            same_NM = _same_group(logits_NM, a_ids, b_ids)
            return same_NM, ~same_NM
        case "mask":
            return partner_NM, ~(partner_NM | _same_group(logits_NM, a_ids, b_ids))
        case "ignore":
            return partner_NM, ~partner_NM
        case _:
            assert_never(positives)


# With one positive p, log(sum of exp) - x_p is taken as softplus(log(sum over the others) - x_p):
# loss and gradient stay exact when they are far smaller than the rounding error of x_p.


def _partner_loss(logits_NM: Tensor, _: Tensor, negative_NM: Tensor, dim: int) -> Tensor:
    """InfoNCE of the rows (``dim`` 1) or columns (0), the matched row being the one positive."""
    partner_K = logits_NM.diagonal()
    others = logits_NM.masked_fill(~negative_NM, MASKED_LOGIT).logsumexp(dim)
    return -logsigmoid(partner_K - others[: len(partner_K)]).mean()


def _group_loss(logits_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor, dim: int) -> Tensor:
    """InfoNCE of the rows (``dim`` 1) or columns (0), each with any number of positives."""
    count = positive_NM.sum(dim)
    target = torch.where(positive_NM, logits_NM, 0).sum(dim) / count.clamp(min=1)
    of_one = -logsigmoid(target - logits_NM.masked_fill(~negative_NM, MASKED_LOGIT).logsumexp(dim))
    of_many = logits_NM.logsumexp(dim) - target  # at least log(count), so nothing is lost
    return _mean(torch.where(count > 1, of_many, of_one), count)


def _gap(logits_NM: Tensor, positive_NM: Tensor, negative_NM: Tensor, dim: int) -> Tensor:
    """Mean positive less mean candidate logit: what label smoothing adds, per its share."""
    means = [
        torch.where(mask_NM, logits_NM, 0).sum(dim) / mask_NM.sum(dim).clamp(min=1)
        for mask_NM in (positive_NM, positive_NM | negative_NM)
    ]
    return _mean(means[0] - means[1], positive_NM.sum(dim))


def _mean(loss: Tensor, count: Tensor) -> Tensor:
    """Return the mean over what has a positive; 0 if nothing has."""
    return torch.where(count > 0, loss, 0).sum() / (count > 0).sum().clamp(min=1)
