"""What a query is near to anyhow: its cosines with a background set, which a match has to exceed.

A detailed caption is near to nothing, a short one to much, so that one cosine is a match of the
first and none of the second. What both have in common with samples that they do not ask for is
measured on a background set and taken from their scores; CSLS (Conneau et al. 2018) and the score
normalisation of speaker verification (Auckenthaler et al. 2000) do so.

Shapes: Q queries, B samples of the background, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FEWEST = 20  # samples, of which one is the nearest twentieth
MOST = 1000  # 1 MB of 256 columns; with 200 the rejection is 0.01 less
SHARE = 0.05  # the nearest ones: those that might be mistaken for a match


def nearness(queries_QD: Tensor, background_BD: Tensor) -> np.ndarray:
    """Return the mean cosine, ``[Q]``, of each query with the nearest of a background.

    Both must be L2-normalised.
    """
    nearest = max(1, round(SHARE * len(background_BD)))
    cosines_QB = queries_QD.cpu().double() @ background_BD.double().T
    return cosines_QB.topk(nearest, dim=1).values.mean(1).numpy()
