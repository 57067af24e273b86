"""Numbers that are not finite: told where they first appear, never applied, never saved."""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import compress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrastive.config.provenance import described
from contrastive.distributed.sharding import whole_weights
from contrastive.errors import TrainingError
from contrastive.nn.fingerprint import first_not_finite
from contrastive.nn.sharded_tensors import own_part
from contrastive.training.step import embedded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch

SHOWN = 5  # rows
LOWER = "try a lower training.lr, or training.precision: fp32"


def check_step(
    step: int,
    model: ContrastiveModel,
    batches: Sequence[Batch],
    settings: TrainingSpec,
    ranks: Ranks,
    *,
    alone: bool = False,
    **values: float,
) -> None:
    """Insist on a finite loss and gradient of a step; tell which have none.

    Args:
        step: its number, from 1.
        model: with the weights before that step, which was not applied.
        batches: of the step; this rank's part of each.
        settings: the training's.
        ranks: all of which call this, and have the same values.
        alone: this rank calls it without the others, and does not ask them.
        values: what is to be finite, by its name.

    Raises:
        TrainingError: something is not; says what was the first, and of which rows.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            with nullcontext() if alone else whole_weights(model):
                causes = (_cause(model, batch, settings) for batch in batches)
                cause = next(filter(None, causes), "")
            mine = ranks.rank + 1 if cause else 0
            finder = mine if alone else ranks.all_reduce_max(mine)
            if cause and not ranks.is_main:
                ranks.say(f"rank {ranks.rank}: {cause}")
            elif finder:
                cause = cause or f"rank {finder - 1} says why"
            else:
                whose = f" of rank {ranks.rank}" if alone and ranks.size > 1 else ""
                cause = f"inputs, weights and embeddings{whose} are finite; {LOWER}"
            msg = (
                f"the {name} is {value} at step {step} (logit scale {model.scale:.4g}), "
                f"which is not applied: {cause}"
            )
            raise TrainingError(msg)


def unreached(model: ContrastiveModel) -> str:
    """Return what to say where a loss has no gradient in all of an encoder or a head.

    Ask before the next step, which begins with no gradients.
    """
    for modality in {name for pair in model.spec.modality_pairs for name in pair}:
        tower = model.tower(modality)
        parts = {"head": (tower.head, tower.spec.head), "encoder": (tower.encoder, None)}
        for name, (module, head) in parts.items():
            trained = [p for p in module.parameters() if p.requires_grad]
            if not trained or any(p.grad is not None for p in trained):
                continue
            who = described(type(head or tower.spec.encoder))
            return (
                f"no gradient reaches towers.{modality}.{name}, {who}: its forward detaches; let "
                f"it not, or set towers.{modality}.frozen: {'all' if head else 'encoder'}"
            )
    return ""


def _cause(model: ContrastiveModel, batch: Batch, settings: TrainingSpec) -> str:
    """Return what was not finite before the loss, if something was."""
    for modality, features_BF in batch.features.items():
        if rows := _odd_rows(features_BF, batch):
            return f"the {modality} features of {rows} are not finite"
    for modality, views in batch.inputs.items():
        for inputs in views:
            for tensor in inputs.values():
                if rows := _odd_rows(tensor, batch):
                    return f"the {modality} inputs of {rows} are not finite"
    if weight := first_not_finite([*model.named_parameters(), *model.named_buffers()]):
        return f"the weight {weight} is not finite; {LOWER}"
    with torch.no_grad():
        for modality, views in embedded(model, batch, settings).items():
            for rows_BD in views:
                if rows := _odd_rows(rows_BD, batch):
                    return f"the {modality} embeddings of {rows} are not finite; {LOWER}"
    return ""


def _odd_rows(tensor_B: Tensor, batch: Batch) -> str:
    """Name the rows with a number that is not finite."""
    if not tensor_B.is_floating_point() or len(tensor_B) != len(batch.ids):
        return ""
    odd_B = [not bool(row.isfinite().all()) for row in tensor_B]
    found = list(compress(batch.sources, odd_B))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def check_weights(step: int, model: ContrastiveModel, *, norm: float) -> None:
    """Insist that a step left weights whose ``norm`` is finite.

    Raises:
        TrainingError: it did not.
    """
    if not math.isfinite(norm):
        held = ((name, own_part(x)) for name, x in model.state_dict().items())
        name = first_not_finite(held) or "the norm of the weights"
        msg = f"{name} is not finite after step {step}, which is not saved; {LOWER}"
        raise TrainingError(msg)


def check_saved(step: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Insist that what is to be saved of a step is finite.

    Raises:
        TrainingError: it is not; names the first tensor.
    """
    if name := first_not_finite(tensors):
        msg = f"{name} is not finite after step {step}, which is not saved; {LOWER}"
        if not step:
            msg = f"{name} is not finite before the first step; take other weights for its encoder"
        raise TrainingError(msg)
