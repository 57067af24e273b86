"""What every built loss is: an ``nn.Module`` that owns ``log_scale`` (and maybe ``bias``).

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn

from contrastive.distributed.global_batch import BatchGroup
from contrastive.losses import Scaled
from contrastive.losses.arguments import check_embeddings
from contrastive.losses.auto_execution import check_precision
from contrastive.losses.functional import collisions, similarity

C = TypeVar("C", bound=Scaled)
LENGTH_ERROR = 0.02  # of a row: bf16 rounds each number by up to 0.4 %


class LossModule(nn.Module, ABC):
    """Embeddings and group ids to a scalar loss and the metrics to log.

    Example:
        >>> class Apart(LossModule):
        ...     def forward(self, a, b, a_ids=None, b_ids=None):
        ...         return (a - b).norm(dim=1).mean(), {}
        >>> Apart()(torch.eye(2), torch.eye(2))
        (tensor(0.), {})
    """

    log_scale: Tensor
    """Logarithm of the logit scale ``s = 1 / temperature``; a parameter if it is learned."""
    reads_autocast: bool = False
    """Whether the loss takes from ``torch.autocast`` how embeddings are multiplied: training in
    bf16 calls such a loss within autocast, others outside of it. Its sums are to be fp32."""

    @abstractmethod
    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached scalar metrics for the log.

        Args:
            a: ``[N, D]``, L2-normalised.
            b: ``[M, D]``, L2-normalised; row i of ``a`` and row i of ``b`` are a matched pair.
            a_ids: ``[N]`` integers; rows with equal ids are positives of each other.
            b_ids: ``[M]`` integers; the same as ``a_ids`` if None.
        """

    def clamp_(self) -> None:
        """Bring the parameters back into their bounds; called after each optimizer step."""

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[N, M]`` logits as the loss sees them: ``s * a @ b.T``, in fp32."""
        return similarity(a, b, log_scale=self.log_scale)

    def batch_group(self) -> BatchGroup | None:
        """Return the ranks whose batches make one global batch with this one's, if any."""
        return None

    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return how the loss of a global batch of N x M pairs is computed, for the log.

        It computes and communicates nothing. ``dim``, ``dtype`` and ``device`` are the embeddings'.
        """
        del n, m, dim, dtype, device
        return "eager"


class ScaledLoss(LossModule, Generic[C]):
    """A loss of scaled cosines, maybe with a bias, over the batch of one or of all ranks.

    Example:
        >>> loss = losses["sigmoid"]().build()
        >>> isinstance(loss, ScaledLoss), sorted(name for name, _ in loss.named_parameters())
        (True, ['bias', 'log_scale'])
    """

    config: C
    """The fields of the spec."""
    bias: Tensor | None
    """Added to every logit, where the loss has one."""

    def __init__(self, config: C, *, bias: float | None = None) -> None:
        """Make the parameters that ``config`` asks for, and a bias if it has a first value."""
        super().__init__()
        self.config = config
        self._rows_checked = False
        log_scale = torch.tensor(-math.log(config.temperature), dtype=torch.float32)
        if config.learn_temperature:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias, dtype=torch.float32))

    @abstractmethod
    def compute(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        group: BatchGroup | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and the metrics that come with its computation.

        Arguments are those of ``forward``: ``[N, D]``, ``[M, D]`` and their ids.

        ``group`` is None, or the ranks whose batches make one global batch, which
        ``execution.gather_global_batch`` gathers; ``contrastive.distributed.global_batch`` has the
        contract of value and gradients.
        """

    @final
    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss; metrics: those of ``compute``, collisions, log_scale and bias.

        The first call warns of rows that are not L2-normalised, and of products in TF32.
        """
        check_embeddings(a, b, a_ids, b_ids)
        if not (self._rows_checked or torch.compiler.is_compiling()):
            self._rows_checked = True
            _warn_if_not_normalised(a=a, b=b)
            check_precision(a.dtype, getattr(self.config, "matmul_dtype", "fp32"), a.device)
        loss, metrics = self.compute(a, b, a_ids, b_ids, self.batch_group())
        ids = torch.arange(len(a), device=a.device) if a_ids is None else a_ids
        metrics |= {"collisions": collisions(ids), "log_scale": self.log_scale.detach().clone()}
        if self.bias is not None:
            metrics["bias"] = self.bias.detach().clone()
        return loss, metrics

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the logit scale within ``[1, max_scale]``; a bias has no bounds."""
        self.log_scale.clamp_(0.0, math.log(self.config.max_scale))

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[N, M]`` logits as the loss sees them: ``s * a @ b.T + bias``, in fp32."""
        return similarity(a, b, log_scale=self.log_scale, bias=self.bias)

    def batch_group(self) -> BatchGroup | None:
        """Return all ranks, unless ``negatives`` are local."""
        return BatchGroup.current() if self.config.negatives == "global" else None


@torch.no_grad()
def _warn_if_not_normalised(**sides: Tensor) -> None:
    """Warn of rows whose length is not 1; reading it waits for the device."""
    for side, x in sides.items():
        if not len(x):
            continue
        length_N = x.float().square().sum(-1).sqrt()
        farthest = float(length_N[(length_N - 1).abs().argmax()])
        if not abs(farthest - 1) <= LENGTH_ERROR:
            msg = (
                f"rows of {side} are not L2-normalised (one has length {farthest:.4g}), which the "
                f"loss takes for granted; give torch.nn.functional.normalize({side}, dim=-1)"
            )
            if farthest == 0:
                msg = f"a row of {side} is 0, without a direction; see why its network gives that"
            warnings.warn(msg, stacklevel=4)
