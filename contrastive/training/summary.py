"""What a run says before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.console import say
from contrastive.nn.sharded_tensors import has_shards
from contrastive.training.built import autocast_dtype, precision_name
from contrastive.training.optimizer import describe
from contrastive.training.step import loss_autocast

if TYPE_CHECKING:
    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches


def say_summary(
    spec: RunSpec,
    model: ContrastiveModel,
    batches: TrainingBatches,
    ranks: Ranks,
    *,
    start: int,
    total: int,
) -> None:
    """Say what is about to happen, with one pair to look at before hours are spent."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    say(f"{trained:,} parameters are trained, {frozen:,} are frozen, on {model.device}")
    if ranks.size > 1:
        held = ", and hold the encoders that train in shards" if has_shards(model) else ""
        say(f"{ranks.size} ranks share each batch{held}")
    how = ", ".join(f"{m}: {'cached' if m in batches.tables else 'live'}" for m in model.towers)
    say(f"{len(batches)} pairs, {batches.steps_per_epoch} steps an epoch; features {how}")
    size, dim = batches.batch_size, spec.model.embed_dim
    if size < (asked := spec.training.batch_size):
        say(f"training.batch_size is {asked:,}, more than the {len(batches):,} pairs: it is {size}")
    dtype = autocast_dtype(spec.training, model.device)
    if dtype or model.device.type != "cpu":
        scaled = " with loss scaling" if dtype is torch.float16 else ""
        say(f"the towers train in {precision_name(dtype)}{scaled}")
    with loss_autocast(model, dtype):
        how = model.loss.describe(size, size, dim, torch.float32, model.device)
    say(f"the loss of {batches.batch_size} x {batches.batch_size} pairs: {how}")
    for modality, tower in spec.model.towers.items():
        if model.tower(modality).encoder_frozen:
            if model.tower(modality).encoder.augment is not None:
                say(f"{modality}: augmented, so that training does not use the feature cache")
        elif tower.frozen != "none":
            say(f"{modality}: a part of the encoder trains, so that its features are not cached")
    if spec.training.lr_factors or spec.training.layer_decay:
        say(f"peak learning rates: {describe(model, spec.training)}")
    if start:
        say(f"resumed at step {start} of {total}")
    row = batches.example()
    pair = "  |  ".join(f"{modality}: {_shown(row[modality])}" for modality in model.towers)
    say(f"one pair: {pair}  |  id: {row['id']}  ({row.get('source', '')})")


def _shown(sample: Any) -> str:
    """Return a sample for the eye; one whose repr is an address, or bytes, by its type."""
    if isinstance(sample, str):
        return sample[:120]
    if isinstance(sample, bytes) or " at 0x" in (text := str(sample)):
        size = getattr(sample, "size", None)  # of a PIL image
        return f"<{type(sample).__name__}{f' {size[0]} x {size[1]}' if size else ''}>"
    return text[:120]
