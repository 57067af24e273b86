"""Where a query's score lies among its scores with everything that is searched.

Some queries are near to everything and some to nothing, so that one cosine is a match of the first
and none of the second. Standardised scores, in standard deviations above the query's mean, can be
compared between queries; speaker verification calls that test normalisation (Auckenthaler et al.
2000).

Shapes: Q queries, N items, D wide, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MOST_ITEMS = 10_000  # whose mean and deviation are those of all, to a hundredth


@dataclass(frozen=True)
class Spread:
    """Cosines of queries with what is searched."""

    mean_Q: np.ndarray
    deviation_Q: np.ndarray

    def standardized(self, scores_Qk: np.ndarray) -> np.ndarray:
        """Return scores in standard deviations above the mean; 0 where all are the same."""
        deviation_Q1 = self.deviation_Q[:, None]
        above_Qk, zeros_Qk = scores_Qk - self.mean_Q[:, None], np.zeros_like(scores_Qk)
        return np.divide(above_Qk, deviation_Q1, out=zeros_Qk, where=deviation_Q1 > 0)


def spread_among(queries_QD: Tensor, items_ND: Tensor) -> Spread:
    """Return mean and standard deviation of each query's cosines with the items.

    Of many, evenly spaced ones are taken. Both must be L2-normalised.
    """
    step = -(-len(items_ND) // MOST_ITEMS)
    scores_QN = (queries_QD.float() @ items_ND[::step].float().T).double().numpy()
    return Spread(scores_QN.mean(1), scores_QN.std(1))
