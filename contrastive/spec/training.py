"""How a model is trained, by how many processes, and which checkpoints are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contrastive.config.bounds import Count, Factor, Name, Rate, Rows
from contrastive.recipe.trackers import Tracker
from contrastive.spec.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(gt=0, le=1)]


class KeepSpec(Section):
    """Which checkpoints of a run are kept.

    Example:
        >>> KeepSpec(best="image_to_text.R@1").last
        2
    """

    last: Count = 2
    """The newest ones; a second one is there in case that the newest is damaged."""
    best: Annotated[str, Field(pattern=r"^(\w+_to_\w+\.R@(1|5|10)|zero-shot\.top-1)$")] | None = (
        None
    )
    """One more: that of the epoch whose evaluation is best in a metric, such as image_to_text.R@1
    or zero-shot.top-1; of equal ones the first."""


class ParallelSpec(Section):
    """How several ranks train one model.

    Example:
        >>> ParallelSpec(strategy="fsdp").param_dtype
        'fp32'
    """

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: each rank holds the model whole. fsdp (FSDP2): each holds a shard of the encoders that
    train, of their gradients and of AdamW's moments. auto is fsdp on GPUs of which ddp would take
    more than half of the memory for these, else ddp."""
    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """In which fsdp gathers weights. fp32: the numbers are those of one rank. bf16: half the bytes,
    with biases, norms and embeddings rounded too; needs precision bf16."""


class TrainingSpec(Section):
    """How a model is trained.

    Example:
        >>> TrainingSpec(epochs=3, batch_size=128).epochs
        3
    """

    epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    """Passes over the training split."""
    batch_size: Annotated[Rows, Field(ge=2)] = 128
    """Global batch size: rows per step, over all ranks; each row's negatives are the others."""
    micro_batch: Rows | None = None
    """Gradient caching: rows per forward pass of a trained tower, per rank. The loss and gradients
    are those of the whole batch, with less memory, for about one more forward pass. null is off."""
    accumulate: Count = 1
    """Gradient accumulation: batches per step, whose gradients are averaged. Each row's negatives
    are those of its own batch, so that it is no larger batch; see micro_batch for that."""
    batch_norm: Literal["train", "eval"] = "train"
    """BatchNorm of the trained layers. train: statistics of the batch over all ranks, refused with
    micro_batch, which sees a part of it. eval: running statistics, not updated."""
    parallel: ParallelSpec = ParallelSpec()
    """How several ranks, as torchrun starts them, train one model."""
    lr: Rate = 1e-3
    """Peak learning rate of AdamW."""
    lr_factors: dict[str, Factor] = Field(default_factory=dict)
    """Learning rate multipliers by glob patterns over the names of the model's parameters, such as
    towers.text.encoder.*; where several match, all are multiplied."""
    layer_decay: dict[str, Decay] = Field(default_factory=dict)
    """Layer-wise learning rate decay of the encoder, by tower. The last of L layers has lr times
    this, what precedes the first layer lr times this to the power of L + 1."""
    checkpoint_activations: tuple[str, ...] = ()
    """Towers that use activation (gradient) checkpointing: activations are recomputed in the
    backward pass; less memory, for about one more forward pass."""
    weight_decay: Annotated[float, Field(ge=0, le=1_000)] = 0.01
    """Weight decay of matrices; biases, norms, the temperature and the bias have none."""
    warmup: Share = 0.05
    """Share of the steps with linear warm-up; a cosine decay to 0 follows."""
    clip_norm: Annotated[float, Field(gt=0, le=1e12)] | None = 1.0
    """Gradient clipping: maximum norm."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16 and fp16 autocast the towers (the loss stays fp32), fp16 with loss scaling. auto is bf16
    on a GPU that has it, fp16 on one of compute capability 7 (V100, T4), fp32 elsewhere."""
    compile: Literal["off", "towers"] = "off"
    """towers compiles (torch.compile) the encoders that run in each step. The first step takes
    up to minutes longer, later ones less. Results differ by rounding, and in dropout masks."""
    device: Name = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is a GPU if there is one."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the initial weights, the order of samples, augmentation and dropout."""
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """DataLoader workers, per rank, that decode and preprocess samples; auto is one for each core
    that the rank may use, at most 16."""
    split: Name = "train"
    """Training split; several are joined by +."""
    cache: Literal["auto", "off"] = "auto"
    """auto keeps the features of frozen encoders on disk."""
    keep: KeepSpec = KeepSpec()
    """Checkpoints that are kept; older ones are removed when a newer one is whole."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints, besides the one at the end of each epoch."""
    trackers: tuple[Tracker, ...] = ()
    """Experiment trackers that are sent the metrics, besides log.jsonl, which has all of them."""
