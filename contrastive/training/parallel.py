"""Several ranks train one model, by torch's ``DistributedDataParallel``.

Gradients are averaged bucket by bucket while the backward pass still runs. Each rank's gradient is
W times its share of the global batch's (``contrastive.distributed.global_batch``), so that the mean
is that of the global batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive.distributed.collectives import all_reduce, lost_rank_told
from contrastive.training.part_mistakes import told_by_part
from contrastive.training.signals import ENDING
from contrastive.training.step import step_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch
    from contrastive.training.fp16_scaling import LossScale

    Metrics = dict[str, Tensor]


SYNC = "forward_sync_buffers", "broadcast_buffers"  # the name now, and before torch 2.14
BUFFERS = next(name for name in SYNC if name in signature(DistributedDataParallel).parameters)


class StepGradients:
    """Computes the gradients of each step, over all ranks."""

    def __init__(
        self,
        model: ContrastiveModel,
        settings: TrainingSpec,
        ranks: Ranks,
        *,
        dtype: torch.dtype | None,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Wrap a model whose weights are the same on all ranks.

        Args:
            model: that is trained.
            settings: the training's.
            ranks: that share each batch.
            dtype: that the towers are autocast to, if to any.
            loss_scale: multiplies losses for the backward pass in fp16.
        """
        self._model, self._ranks, self._loss_scale = model, ranks, loss_scale
        self._loss: nn.Module = _StepLoss(model, settings, dtype)
        if ranks.size > 1:
            self._loss = cast("Any", DistributedDataParallel)(
                self._loss,
                init_sync=False,
                **{BUFFERS: False},  # they are the same on all ranks
                # Rows, and models, may leave weights out. It also keeps the buckets of the first
                # step, so that a resumed run adds up in the same order.
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )

    def compute(
        self, batches: Sequence[Batch], signals: Sequence[int] = ()
    ) -> tuple[Tensor, Metrics, Tensor]:
        """Leave the gradients of the mean loss of a step's batches with the weights.

        Args:
            batches: this rank's part of each.
            signals: those of ``signals.ENDING`` that this rank was sent.

        Returns:
            The mean loss, the same number on all ranks; the mean of each metric; and how many ranks
            were sent each of ``signals.ENDING``, ``[S]``. None of them is waited for.
        """
        self._model.zero_grad(set_to_none=True)  # before there are activations beside them
        losses: list[Tensor] = []
        metrics: list[Metrics] = []
        for number, batch in enumerate(batches, 1):
            with told_by_part(self._model), self._averaged(last=number == len(batches)):
                loss, found = cast("tuple[Tensor, Metrics]", self._loss(batch))
                self._scaled(loss / len(batches) if batches[1:] else loss).backward()
            losses.append(loss.detach())
            metrics.append(found)
        if self._loss_scale:  # an overflow of one rank is now one of all
            self._loss_scale.unscale_(
                p.grad for p in self._model.parameters() if p.grad is not None
            )
        means = {name: _mean([each[name] for each in metrics]) for name in metrics[0]}
        loss = _mean(losses)
        sent = loss.new_zeros(len(ENDING))  # on the device: a copy from the host would wait
        for number in signals:
            sent[ENDING.index(number)] = 1
        if self._ranks.size == 1:
            return loss, means, sent
        numbers = torch.cat([loss[None] / self._ranks.size, sent])
        all_reduce(numbers)
        return numbers[0], means, numbers[1:]

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * self._loss_scale.scale if self._loss_scale else loss

    def _averaged(self, *, last: bool) -> AbstractContextManager[None]:
        """Return what averages over the ranks in the last backward pass of a step only."""
        if isinstance(self._loss, DistributedDataParallel):
            return lost_rank_told(among_others=True) if last else self._loss.no_sync()
        return nullcontext()


class _StepLoss(nn.Module):
    """The loss of a batch as a module, which is what torch wraps."""

    def __init__(
        self, model: ContrastiveModel, settings: TrainingSpec, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.model = model
        self._settings, self._dtype = settings, dtype

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return step_loss(self.model, batch, self._settings, dtype=self._dtype)


def _mean(numbers: list[Any]) -> Any:
    """Return the mean of tensors, or of plain numbers, of any type; one alone is itself."""
    if not numbers[1:]:
        return numbers[0]
    return torch.stack([torch.as_tensor(x).float() for x in numbers]).mean()
