"""Label smoothing without all pairs: what it adds to InfoNCE is linear in the logits.

With a share of epsilon spread over all candidates, a row's loss grows by epsilon times its mean
positive logit less its mean candidate logit (Szegedy et al. 2016, arXiv:1512.00567, section 7).
Both means are products of the row with a sum of embeddings, so the cost is O((N + M) D).

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from contrastive.losses.backends.base import accumulation_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels


def smoothing(a: Tensor, b: Tensor, log_scale: Tensor, labels: PairLabels) -> Tensor:
    """Return the mean over rows with a positive of (mean positive - mean candidate logit)."""
    dtype = accumulation_dtype(a, b)
    a, b = a.to(dtype), b.to(dtype)
    k = min(len(a), len(b))
    partner_ND = torch.zeros_like(a).index_copy(0, torch.arange(k, device=a.device), b[:k])
    candidates_ND = b.sum(0)
    candidate_count_N = torch.full((), float(len(b)), dtype=dtype, device=a.device)
    positive_ND = partner_ND
    if labels.kind == "groups":
        positive_ND = _group_sums(b, labels)
    elif labels.a_ids_N is not None and labels.b_ids_M is not None:
        same_K = labels.a_ids_N[:k] == labels.b_ids_M[:k]
        same_N = torch.zeros(len(a), dtype=torch.bool, device=a.device)
        same_N[:k] = same_K
        left_out_ND = _group_sums(b, labels) - partner_ND * same_N[:, None]
        left_out_N = _group_sums(torch.ones_like(b[:, :1]), labels)[:, 0] - same_N.to(dtype)
        candidates_ND = candidates_ND - left_out_ND
        candidate_count_N = candidate_count_N - left_out_N
    mean_positive_ND = positive_ND / labels.row_count_N.to(dtype).clamp(min=1)[:, None]
    mean_candidate_ND = candidates_ND / candidate_count_N.clamp(min=1)[..., None]
    gap_N = (a * (mean_positive_ND - mean_candidate_ND)).sum(1)
    counted_N = labels.row_count_N > 0
    total = torch.where(counted_N, gap_N, 0).sum()
    return log_scale.exp() * total / labels.rows_with_positive.to(dtype).clamp(min=1)


def _group_sums(b: Tensor, labels: PairLabels) -> Tensor:
    """Return ``[N, D]``, for each row of a the sum of the rows of b with the same id."""
    assert labels.a_ids_N is not None
    assert labels.b_ids_M is not None
    ordered = labels.b_ids_M.sort().values  # where an id first stands in it numbers the group
    sums_MD = torch.zeros_like(b).index_add(0, torch.searchsorted(ordered, labels.b_ids_M), b)
    group_N = torch.searchsorted(ordered, labels.a_ids_N).clamp(max=len(b) - 1)
    known_N = ordered[group_N] == labels.a_ids_N
    return torch.where(known_N[:, None], sums_MD[group_N], 0)
