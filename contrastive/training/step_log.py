"""The numbers of each step, read one step late: who asks a device at once waits for it.

A step leaves its loss, its norms and its metrics on the device in one vector, which is copied once.
They are read when the next step is on its way, or before a checkpoint. Until then nobody knows
whether they are finite, so the update of a step that is not, and of any that come after it, is left
out by the device itself: ``leave_out`` is 1 from there on. Where the device cannot, it is asked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.console import say
from contrastive.nn.device import widest_float
from contrastive.nn.sharded_tensors import total_norm
from contrastive.training.finite import check_step, check_weights, unreached
from contrastive.training.optimizer import leaves_out_itself
from contrastive.training.part_mistakes import check_scale
from contrastive.training.signals import ENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.run_log import Log
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch
    from contrastive.training.fp16_scaling import LossScale

Number = bool | int | float


class StepLog:
    """Logs each step once its numbers have left the device; says which are applied."""

    def __init__(
        self,
        log: Log,
        model: ContrastiveModel,
        optimizer: torch.optim.AdamW,
        settings: TrainingSpec,
        ranks: Ranks,
        loss_scale: LossScale | None = None,
        *,
        steps_per_epoch: int,
        advance: Callable[[int, str], None],
    ) -> None:
        """Begin with no step.

        Args:
            log: gets a line for each.
            model: that is trained.
            optimizer: over its parameters.
            settings: the training's.
            ranks: all of which do the same.
            loss_scale: of a run in fp16; a step whose gradients overflow is left out.
            steps_per_epoch: by which a step's epoch is known.
            advance: is called with 1 and a note for each step that is logged.
        """
        self.log = log
        self._model = model
        self._weights = [*model.parameters()]
        self._settings, self._ranks = settings, ranks
        self._steps_per_epoch, self._advance = steps_per_epoch, advance
        self._pending: _Pending | None = None
        self._signal = 0
        self.leave_out = torch.zeros((), device=model.device)
        """1 on the device once a number was not finite: no update is applied any more."""
        self._loss_scale = loss_scale
        self._overflow = torch.zeros_like(self.leave_out)
        self._skip = torch.zeros_like(self.leave_out)
        """1 for a step that is left out, for good or since it overflows."""
        self._by_device = leaves_out_itself(optimizer, model.device)
        self._told_overflow = False
        if self._by_device:
            vars(optimizer)["found_inf"] = self._skip  # which fused AdamW looks for

    def is_applied(self, loss: Tensor, gradient_norm: Tensor) -> bool:
        """Whether the optimizer is to be called for a step.

        Not if its loss or gradient, or a number before them, is not finite; where the device leaves
        a step out, it is called in any case, and leaves the weights as they are.
        """
        if self._loss_scale:
            self._overflow = self._loss_scale.update_(loss, gradient_norm)
            gradient_norm = gradient_norm.where(self._overflow == 0, 0)
        self._note(loss, gradient_norm)
        torch.maximum(self.leave_out, self._overflow, out=self._skip)
        return self._by_device or not self._skip

    def add(
        self,
        done: int,
        batches: Sequence[Batch],
        *,
        loss: Tensor,
        lr: float,
        gradient_norm: Tensor,
        metrics: Mapping[str, Any],
        sent: Tensor,
    ) -> None:
        """Take up the numbers of a step that is applied; log the one before it.

        ``sent`` counts the ranks that were sent each of ``signals.ENDING``.

        Raises:
            TrainingError: the one before is not finite, or left weights that are not.
            SpecError: the loss has lost its logit scale.
        """
        trained = [p.detach() for p in self._weights if p.requires_grad]
        weights_norm = total_norm(trained)
        self._note(weights_norm)
        check_scale(self._model)
        own = {"loss": loss, "lr": lr, "grad_norm": gradient_norm}
        if self._loss_scale:
            own |= {"loss_scale": self._loss_scale.scale, "skipped_steps": self._loss_scale.skipped}
        unnamed = [weights_norm, self._model.loss.log_scale.exp(), self._overflow, *sent]
        values = _Values(own | dict(metrics), unnamed, self._model.device)
        line = unreached(self._model) if done == 1 else ""
        before, self._pending = self._pending, _Pending(done, batches, values, line)
        if before:
            self._settle(before)

    def ending(self, signals: Sequence[int]) -> int:
        """Return the signal that ends the run now, or 0; ``signals`` are those of this rank.

        One may reach a rank before another: all end once all know, at the same step.
        """
        if self._ranks.size == 1:
            return next(iter(signals), 0)
        if self._signal and not signals:
            say("another rank was told to stop")
        return self._signal

    def settle(self, *, alone: bool = False) -> None:
        """Log the last step, if it is not yet; this waits for the device.

        Args:
            alone: the other ranks do not come here, so that they are not asked.

        Raises:
            TrainingError: as of ``add``.
        """
        last, self._pending = self._pending, None
        if last:
            self._settle(last, alone=alone)

    def _note(self, *numbers: Tensor) -> None:
        odd = ~torch.stack([x.detach() for x in numbers]).isfinite().all()
        torch.maximum(self.leave_out, odd.to(self.leave_out.dtype), out=self.leave_out)

    def _settle(self, step: _Pending, *, alone: bool = False) -> None:
        shown, (weights_norm, scale, overflow, *sent) = step.values.read()
        self._signal = max((n for n, count in zip(ENDING, sent, strict=True) if count), default=0)
        if overflow:
            self._tell_overflow(step.done, shown)
        if step.unreached:
            say(step.unreached)
        check_step(
            step.done,
            self._model,
            step.batches,
            self._settings,
            self._ranks,
            alone=alone,
            loss=shown["loss"],
            gradient=shown.get("grad_norm", 0.0),
        )
        check_weights(step.done, self._model, norm=weights_norm)
        self.log.step(step.done, step.done / self._steps_per_epoch, **shown)
        self._advance(1, f"loss {shown['loss']:.3f}  scale {scale:.1f}")

    def _tell_overflow(self, done: int, shown: dict[str, Any]) -> None:
        """Leave the gradient, which is not finite, out of the log; say so the first time."""
        del shown["grad_norm"]
        if not self._told_overflow:
            self._told_overflow = True
            say(
                f"step {done} is left out: gradients overflow fp16; the loss scale is now "
                f"{shown['loss_scale']:,.0f}. That is usual now and then; skipped_steps in the log "
                "counts them"
            )


@dataclass
class _Pending:
    """A step whose numbers are on their way."""

    done: int
    batches: Sequence[Batch]
    values: _Values
    unreached: str
    """What to say of parts that have no gradient."""


class _Values:
    """Scalars on a device, by name and without; those of one type leave it together."""

    def __init__(
        self, named: Mapping[str, Any], unnamed: list[Tensor], device: torch.device
    ) -> None:
        """Start to copy them; what is no tensor stays as it is."""
        self._named = dict(named)
        by_type: defaultdict[torch.dtype, list[tuple[str | int, Tensor]]] = defaultdict(list)
        for key, value in [*named.items(), *enumerate(unnamed)]:
            if isinstance(value, Tensor):
                by_type[value.dtype].append((key, value.detach().to(device).reshape(())))
        self._keys = [(key, dtype) for dtype, same in by_type.items() for key, _ in same]
        wide = widest_float(device)
        columns = [torch.stack([x for _, x in same]).to(wide) for same in by_type.values()]
        self._all, self._copied = torch.cat(columns), None
        if device.type == "cuda":  # of pinned memory, the copy is one that nobody waits for
            host = torch.empty(self._all.shape, dtype=wide, pin_memory=True)
            self._all = host.copy_(self._all, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))

    def read(self) -> tuple[dict[str, Any], list[float]]:
        """Return all of them as plain numbers, as ``item`` would."""
        if self._copied:
            self._copied.synchronize()
        numbers = cast("list[float]", self._all.tolist())
        found = {key: _plain(x, dtype) for (key, dtype), x in zip(self._keys, numbers, strict=True)}
        unnamed = sorted(key for key in found if isinstance(key, int))
        return (
            {name: found.get(name, value) for name, value in self._named.items()},
            [float(found[key]) for key in unnamed],
        )


def _plain(x: float, dtype: torch.dtype) -> Number:
    if dtype == torch.bool:
        return bool(x)
    return x if dtype.is_floating_point else int(x)
