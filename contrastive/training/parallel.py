"""Several ranks train one model, by torch's DDP and FSDP2.

Gradients are averaged while the backward pass still runs: bucket by bucket by DDP, block by block
by FSDP2 where that shards an encoder. Each rank's gradient is W times its share of the global
batch's (``contrastive.distributed.global_batch``), so that the mean is that of the global batch.
"""

from __future__ import annotations

from contextlib import ExitStack
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive.config.provenance import described, is_ours
from contrastive.console import say
from contrastive.distributed.collectives import all_reduce, lost_rank_told
from contrastive.distributed.sharding import several_passes, shard_
from contrastive.errors import SpecError, TrainingError
from contrastive.losses.module import LossModule
from contrastive.losses.on_ranks import GATHER, has_local_negatives, other_on_ranks
from contrastive.nn.sharded_tensors import has_shards, is_sharded
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


def check_loss_of_ranks(model: ContrastiveModel, ranks: Ranks) -> None:
    """Insist that a plugin's loss is, over all ranks, that of the global batch on one.

    Our own are tested for it; a loss whose ``negatives`` are local is asked to be another.

    Raises:
        TrainingError: its value or a gradient is not; all ranks raise it.
    """
    parts = [part for part in model.loss.modules() if isinstance(part, LossModule)]
    known = all(is_ours(type(part)) for part in parts)
    if ranks.size == 1 or known or has_local_negatives(model.loss):
        return
    if other := other_on_ranks(model.loss, model.spec.embed_dim, ranks, model.device):
        found, whole = other
        msg = (
            f"model.loss: {described(type(model.spec.loss))} is another loss on {ranks.size} ranks "
            f"than on one: of one batch {found:.4g} instead of {whole:.4g}, or with other "
            f"gradients; {GATHER}, or train on one rank"
        )
        raise TrainingError(msg)


STATE = 4  # times the bytes of a weight: itself, its gradient, AdamW's two moments
SHARE = 0.5  # of a GPU's memory, for the state of what trains


def shard_towers_(
    model: ContrastiveModel, settings: TrainingSpec, ranks: Ranks, dtype: torch.dtype | None
) -> None:
    """Shard the encoders that train, in place, where the strategy is fsdp.

    Heads and the parameters of the loss, which are few, each rank holds whole; so do encoders that
    are frozen, whose features are cached.

    Args:
        model: with the same weights on all ranks.
        settings: the training's.
        ranks: that share each batch.
        dtype: that the towers are autocast to, if to any.

    Raises:
        SpecError: weights are to be gathered in another type than the towers compute in.
    """
    how = settings.parallel
    towers = [model.tower(modality) for modality in model.towers]
    encoders = [tower.encoder for tower in towers if not tower.encoder_frozen]
    if ranks.size == 1 or _strategy(model, settings, encoders) == "ddp":
        return
    if how.param_dtype == "bf16" and dtype is not torch.bfloat16:
        msg = "training.parallel.param_dtype: bf16 needs training.precision: bf16"
        raise SpecError(msg)
    if encoders:
        param_dtype = torch.bfloat16 if how.param_dtype == "bf16" else None
        shard_([*dict.fromkeys(encoders)], model.device, param_dtype=param_dtype)
    else:
        say("training.parallel.strategy: fsdp shards nothing, since no encoder trains")


def _strategy(
    model: ContrastiveModel, settings: TrainingSpec, encoders: Sequence[nn.Module]
) -> str:
    if settings.parallel.strategy != "auto":
        return settings.parallel.strategy
    if model.device.type != "cuda":
        return "ddp"
    trained = {p for each in encoders for p in each.parameters() if p.requires_grad}
    memory: int = cast("Any", torch.cuda.get_device_properties(model.device)).total_memory
    return "fsdp" if STATE * sum(p.nbytes for p in trained) > SHARE * memory else "ddp"


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
        self._model, self._settings = model, settings
        self._ranks, self._loss_scale = ranks, loss_scale
        self._loss: nn.Module = _StepLoss(model, settings, dtype)
        self._sharded = has_shards(model)
        self._weights = [*model.parameters()]
        named = dict(self._loss.named_parameters())
        if ranks.size > 1 and any(p.requires_grad and not is_sharded(p) for p in named.values()):
            cast("Any", DistributedDataParallel)._set_params_and_buffers_to_ignore_for_model(
                self._loss, [name for name, p in named.items() if is_sharded(p)]
            )
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
        for weight in self._weights:  # before there are activations beside them
            weight.grad = None
        losses: list[Tensor] = []
        metrics: list[Metrics] = []
        for number, batch in enumerate(batches, 1):
            with told_by_part(self._model), self._averaged(last=number == len(batches)):
                loss, found = cast("tuple[Tensor, Metrics]", self._loss(batch))
                self._scaled(loss / len(batches) if batches[1:] else loss).backward()
            losses.append(loss.detach())
            metrics.append(found)
        if self._loss_scale:  # an overflow of one rank is now one of all
            self._loss_scale.unscale_(p.grad for p in self._weights if p.grad is not None)
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

    def _averaged(self, *, last: bool) -> ExitStack:
        """Return what averages over the ranks: DDP in the last backward pass of a step only.

        FSDP does in each, since a gradient that waits would be whole.
        """
        stack = ExitStack()
        if self._ranks.size > 1 and (self._sharded or last):
            stack.enter_context(lost_rank_told(among_others=True))
        if self._settings.micro_batch:
            stack.enter_context(several_passes(self._model))
        if isinstance(self._loss, DistributedDataParallel) and not last:
            stack.enter_context(self._loss.no_sync())
        return stack


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
