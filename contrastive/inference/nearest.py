"""Exact nearest neighbours by cosine, among vectors in memory.

Shapes: Q queries, N items, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.indexes.exact import Items
from contrastive.indexes.exact import top_k as among

if TYPE_CHECKING:
    from torch import Tensor


def top_k(queries_QD: Tensor, items_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities, fp32, and indices ``[Q, min(k, N)]`` of the best items.

    The best come first, equal ones in the order of the items, as a stable sort of float64 scores
    has them; neither the score of an item nor its place depends on what else is searched. Both must
    be L2-normalised.
    """
    return among(queries_QD, Items([items_ND]), k)
