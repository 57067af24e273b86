"""Another loss at several widths of the embeddings.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from contrastive.errors import SpecError
from contrastive.losses.arguments import check_embeddings
from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.wrapper import WrapperLoss

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Matryoshka


class MatryoshkaLoss(WrapperLoss):
    r"""The sum over widths m of ``c_m`` times the loss of the first m dimensions.

    .. math:: L = \sum_{m} c_m \, \ell \left( \frac{a_{1:m}}{|a_{1:m}|},
              \frac{b_{1:m}}{|b_{1:m}|} \right)

    (Kusupati et al. 2022, arXiv:2205.13147, eq. 1, whose ``c_m`` are 1; normalised as they do for
    retrieval.) All widths have one temperature.
    """

    def __init__(self, config: Matryoshka) -> None:
        """Build the loss of all widths."""
        super().__init__(config.loss)
        self.config = config

    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; metrics: those of the largest width, and ``loss_64`` of width 64.

        Raises:
            SpecError: a width is larger than the embeddings.
        """
        check_embeddings(a, b, a_ids, b_ids)
        widths = self.config.widths
        if (largest := max(widths)) > a.shape[1]:
            msg = f"matryoshka: width {largest} of embeddings that are {a.shape[1]} wide; lower it"
            raise SpecError(msg)
        results = {m: self.inner(_first(a, m), _first(b, m), a_ids, b_ids) for m in widths}
        weights = self.config.weights or (1.0,) * len(widths)
        terms = [weight * results[m][0] for m, weight in zip(widths, weights, strict=True)]
        metrics = {f"loss_{m}": loss.detach() for m, (loss, _) in results.items()}
        return torch.stack(terms).sum(), {**results[largest][1], **metrics}


def _first(x: Tensor, width: int) -> Tensor:
    """Return the first dimensions of rows of length 1, with length 1."""
    if width == x.shape[1]:
        return x
    with torch.autocast(x.device.type, enabled=False):
        return normalize(x[:, :width].to(accumulation_dtype(x, x)), dim=1)
