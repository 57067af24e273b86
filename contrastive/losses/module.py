"""What every built loss is: an ``nn.Module`` that owns ``log_scale`` (and maybe ``bias``).

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from contrastive.losses.functional import similarity


class LossModule(nn.Module):
    """Embeddings and group ids to a scalar and the figures worth logging."""

    log_scale: Tensor
    """Logarithm of the logit scale ``s = 1 / temperature``; a parameter if it is learned."""

    @abstractmethod
    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached scalar figures for the log.

        Args:
            a: ``[N, D]``, L2-normalised.
            b: ``[M, D]``, L2-normalised; row i of ``b`` is the partner of row i of ``a``.
            a_ids: ``[N]`` integers; rows with equal ids are positives of each other.
            b_ids: ``[M]`` integers; the same as ``a_ids`` if None.
        """

    def clamp_(self) -> None:
        """Bring the parameters back into their bounds; called after each optimiser step."""

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[N, M]`` logits as the loss sees them: ``s * a @ b.T``, in fp32."""
        return similarity(a, b, log_scale=self.log_scale)
