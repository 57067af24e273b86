"""Batches on their way to a GPU: from pinned memory, on a stream beside that of the steps.

When a batch is asked for, the step before it is still running, since its numbers are read later:
the copy runs beside it, and nobody waits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch


def copied_to(
    device: torch.device, batches: Iterator[Batch], settings: TrainingSpec
) -> Iterator[Batch]:
    """Return batches on a GPU; for any other device they stay as they are.

    What micro-batches take stays in pinned memory until its turn comes.
    """
    if device.type != "cuda":
        return batches
    stream = torch.cuda.Stream(device)

    def moved(x: Tensor) -> Tensor:
        return x.pin_memory().to(device, non_blocking=True)

    def copied(batch: Batch) -> Batch:
        with torch.cuda.stream(stream):
            there = _each(batch, moved, Tensor.pin_memory if settings.micro_batch else None)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(stream)

        def used(x: Tensor) -> Tensor:
            if x.device.type == "cuda":  # its memory is free again when the steps' stream is done
                x.record_stream(steps)
            return x

        return _each(there, used)

    return map(copied, batches)


def _each(
    batch: Batch,
    change: Callable[[Tensor], Tensor],
    change_inputs: Callable[[Tensor], Tensor] | None = None,
) -> Batch:
    """Return a batch with each tensor changed, once where two views share it."""
    known: dict[int, Tensor] = {}

    def inputs(x: Tensor) -> Tensor:
        if id(x) not in known:
            known[id(x)] = (change_inputs or change)(x)
        return known[id(x)]

    return replace(
        batch,
        ids=change(batch.ids),
        features={name: change(x) for name, x in batch.features.items()},
        inputs={
            name: [{key: inputs(x) for key, x in view.items()} for view in views]
            for name, views in batch.inputs.items()
        },
    )
