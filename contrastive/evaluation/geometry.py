"""Geometry of embeddings: a collapse shows here before it shows in recall.

Shapes: N samples, D the shared width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from contrastive.nn.embeddings import check_finite

if TYPE_CHECKING:
    from torch import Tensor

AT_MOST = 2048  # samples: their pairs are N^2, and more would not change the third digit


@dataclass(frozen=True)
class Geometry:
    """Embeddings of one modality, of samples from different groups."""

    mean_cosine: float
    """Between different samples: about 0 if they are spread out, 1 if all are one point."""
    uniformity: float
    """Logarithm of the mean of exp(-2 |x - y|^2) over pairs: 0 is one point, about -4 is uniform
    (Wang and Isola 2020, arXiv:2005.10242, section 4.1.2)."""
    effective_rank: float
    """Directions in which samples differ: the exponential of the entropy of the singular values,
    here of the centred embeddings (Roy and Vetterli 2007)."""
    samples: int
    """N, at most 2048."""


@torch.no_grad()
def geometry(embeddings_ND: Tensor, ids_N: Tensor | None = None) -> Geometry | None:
    """Return the geometry of L2-normalised embeddings; None for fewer than two groups.

    With ids, the first sample of each group stands for it: captions of one image should be alike.

    Raises:
        DataError: an embedding is not finite.
    """
    x_ND = embeddings_ND.detach().cpu()
    check_finite(x_ND, "embeddings")
    if ids_N is not None:
        order = ids_N.cpu().argsort(stable=True)
        ordered = ids_N.cpu()[order]
        first = torch.ones(len(ordered), dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        x_ND = x_ND[order[first]]
    n = len(x_ND)
    if n < 2:
        return None
    if n > AT_MOST:  # evenly spaced, as neighbours are often of one kind
        x_ND = x_ND[torch.linspace(0, n - 1, AT_MOST).long()]
        n = AT_MOST
    x_ND = x_ND.double()
    cosines_NN = x_ND @ x_ND.T
    cosines = cosines_NN[torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)]
    uniformity = (4 * (cosines - 1)).exp().mean().log()  # |x - y|^2 = 2 - 2 cosine
    centred_ND = x_ND - x_ND.mean(0)
    small = centred_ND.T @ centred_ND if n > centred_ND.shape[1] else centred_ND @ centred_ND.T
    eigenvalues = cast("Tensor", torch.linalg.eigvalsh(small))
    singular = eigenvalues.clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=1e-12)
    entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
    return Geometry(cosines.mean().item(), uniformity.item(), entropy.exp().item(), n)
