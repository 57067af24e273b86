"""Exact nearest neighbours by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

ITEMS = 65_536  # scored at a time: with 1,000 queries, 256 MB


def top_k(queries_QD: Tensor, items_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities and indices ``[Q, min(k, N)]`` of the best items, best first.

    Exact, without the whole matrix. Both must be L2-normalised. Equal scores come in the order
    of the items.
    """
    scores = queries_QD.new_empty(len(queries_QD), 0)
    indices = torch.empty(len(queries_QD), 0, dtype=torch.long, device=queries_QD.device)
    for start in range(0, len(items_ND), ITEMS):
        block = queries_QD @ items_ND[start : start + ITEMS].T
        places = torch.arange(start, start + block.shape[1], device=block.device)
        scores = torch.cat([scores, block], 1)
        indices = torch.cat([indices, places.expand_as(block)], 1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
    return scores, indices
