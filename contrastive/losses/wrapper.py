"""A loss that holds another: its temperature, logits and bounds are the other's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.losses.module import LossModule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup
    from contrastive.losses import Loss


class WrapperLoss(LossModule):
    """A loss around ``inner``, which alone has the parameters.

    Example:
        >>> loss = losses["matryoshka"](widths=[2, 4], loss={"type": "infonce"}).build()
        >>> isinstance(loss, WrapperLoss), type(loss.inner).__name__
        (True, 'InfoNCELoss')
    """

    inner: LossModule

    def __init__(self, loss: Loss) -> None:
        """Build the loss within."""
        super().__init__()
        self.inner = loss.build()

    @property
    def log_scale(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Logarithm of the logit scale of the loss within."""
        return self.inner.log_scale

    @property
    def reads_autocast(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the loss within does."""
        return self.inner.reads_autocast

    def clamp_(self) -> None:
        """Bring the parameters of the loss within back into their bounds."""
        self.inner.clamp_()

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[N, M]`` logits as the loss within sees them."""
        return self.inner.logits(a, b)

    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return the execution of the inner loss."""
        return self.inner.describe(n, m, dim, dtype, device)

    def batch_group(self) -> BatchGroup | None:
        """Return the ranks of the inner loss."""
        return self.inner.batch_group()
