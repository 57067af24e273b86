"""Another loss, and a teacher's similarities to agree with.

The teacher's embeddings of a batch come with the call: they may be of any width, from a live model
or from a table, and augmented like the student's or not; only who makes the batch knows.

Shapes: N rows of a, M rows of b, D wide, T the teacher's width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import kl_div

from contrastive.errors import TrainingError
from contrastive.losses.arguments import as_scalar, check_devices, check_embeddings
from contrastive.losses.backends.pair_labels import check_pair_counts
from contrastive.losses.execution import gather_global_batch
from contrastive.losses.functional import similarity
from contrastive.losses.wrapper import WrapperLoss

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Distillation


class DistillationLoss(WrapperLoss):
    """``(1 - weight)`` of another loss and ``weight`` of ``distillation``."""

    def __init__(self, config: Distillation) -> None:
        """Build the other loss, whose logit scale is the student's."""
        super().__init__(config.loss)
        self.config = config

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None = None,
        b_ids: Tensor | None = None,
        *,
        teacher_a: Tensor | None = None,
        teacher_b: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; metrics: those of the other, and ``distillation`` in nats.

        Args:
            a: ``[N, D]``, L2-normalised.
            b: ``[M, D]``, L2-normalised.
            a_ids: ``[N]`` integers, for the other loss.
            b_ids: ``[M]`` integers, for the other loss.
            teacher_a: ``[N, T]``, the teacher's embeddings of the same samples.
            teacher_b: ``[M, T]``.

        Raises:
            TrainingError: the teacher's embeddings are not given.
            ValueError: they are not of as many samples.
        """
        if teacher_a is None or teacher_b is None:
            msg = (
                "distillation needs the teacher's embeddings of each batch: call the loss with "
                "teacher_a= and teacher_b=, in a training loop of your own"
            )
            raise TrainingError(msg)
        check_embeddings(teacher_a, teacher_b, prefix="teacher_")
        loss, metrics = self.inner(a, b, a_ids, b_ids)
        group = self.batch_group()
        a, b, _, _ = gather_global_batch(a, b, None, None, group=group)
        teacher_a, teacher_b, _, _ = gather_global_batch(
            teacher_a.detach(), teacher_b.detach(), None, None, group=group
        )
        # a copy from the host would wait
        scale = torch.full((), -math.log(self.config.teacher_temperature), device=a.device)
        agreement = distillation(
            a, b, teacher_a, teacher_b, log_scale=self.log_scale, teacher_log_scale=scale
        )
        weight = self.config.weight
        metrics = {**metrics, "distillation": agreement.detach()}
        return (1 - weight) * loss + weight * agreement, metrics


def distillation(
    a: Tensor,
    b: Tensor,
    teacher_a: Tensor,
    teacher_b: Tensor,
    *,
    log_scale: Tensor | float,
    teacher_log_scale: Tensor | float,
) -> Tensor:
    r"""Return how far the student's choices are from the teacher's, in nats.

    With logits ``x = similarity(a, b)`` of the student and y of the teacher, each row has two
    softmax distributions over the columns, and each column two over the rows:

    .. math:: L = \frac{1}{2N} \sum_i \mathrm{KL}(\sigma(y_{i \cdot}) \,\|\, \sigma(x_{i \cdot}))
              + \frac{1}{2M} \sum_j \mathrm{KL}(\sigma(y_{\cdot j}) \,\|\, \sigma(x_{\cdot j}))

    Its gradients are those of the cross entropy of TinyCLIP's affinity mimicking (Wu et al. 2023,
    arXiv:2309.12314), which SEED has over a queue and for one modality (Fang et al. 2021,
    arXiv:2101.04731); less the teacher's entropy, it is 0 where both agree. The teacher gets no
    gradients.

    Args:
        a: ``[N, D]``, L2-normalised.
        b: ``[M, D]``, L2-normalised.
        teacher_a: ``[N, T]``, L2-normalised.
        teacher_b: ``[M, T]``, L2-normalised.
        log_scale: scalar, the logarithm of the student's inverse temperature.
        teacher_log_scale: scalar, that of the teacher.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings of the student).

    Raises:
        ValueError: something is no embeddings or no number, or the teacher's are not of as many
            samples.
    """
    check_embeddings(a, b)
    check_embeddings(teacher_a, teacher_b, prefix="teacher_")
    check_devices(a, teacher_a=teacher_a)
    check_pair_counts(len(a), len(b))
    log_scale = as_scalar(log_scale, a, b, name="log_scale")
    teacher_log_scale = as_scalar(teacher_log_scale, teacher_a, teacher_b, name="teacher_log_scale")
    if (len(teacher_a), len(teacher_b)) != (len(a), len(b)):
        given = (len(teacher_a), len(teacher_b))
        msg = f"teacher_a and teacher_b have {given} rows for {(len(a), len(b))} embeddings"
        raise ValueError(msg)
    x_NM = similarity(a, b, log_scale=log_scale)
    with torch.no_grad():
        y_NM = similarity(teacher_a, teacher_b, log_scale=teacher_log_scale).to(x_NM.dtype)
    sides = [
        kl_div(x_NM.log_softmax(dim), y_NM.log_softmax(dim), reduction="sum", log_target=True)
        / x_NM.shape[1 - dim]
        for dim in (1, 0)
    ]
    return torch.stack(sides).mean()
