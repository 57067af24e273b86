"""What a model is made of, and what a run does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from contrastive.config import Config
from contrastive.datasets import Dataset, datasets
from contrastive.encoders import Encoder, encoders
from contrastive.heads import Head, heads
from contrastive.losses import Loss, losses
from contrastive.pretrained import sources

REGISTRIES = (encoders, heads, losses, datasets, sources)
"""Every kind of component."""

TEMPLATES = ("a picture of a {}", "a photo of a {}", "{}")
"""Sentences for the classes of zero-shot classification."""

Share = Annotated[float, Field(ge=0, le=1)]


class Tower(Config):
    """One modality: an encoder and its projection."""

    encoder: Encoder
    """Turns raw samples into features."""
    head: Head
    """Projects features to the shared space."""
    frozen: Literal["none", "encoder", "all"] = "none"
    """What stays as it is: nothing, the encoder, or the encoder and the head. A frozen encoder
    runs in eval mode without gradients, and its features are cached."""


class ModelSpec(Config):
    """A contrastive model: towers by modality, and a loss."""

    embed_dim: PositiveInt = 256
    """Width of the shared space; every head projects to it."""
    towers: dict[str, Tower] = Field(min_length=2)
    """A tower for each modality, by its name: image, text."""
    loss: Loss
    """What training minimises."""

    @model_validator(mode="after")
    def _modalities_match(self) -> Self:
        for name, tower in self.towers.items():
            modality = tower.encoder.modality
            if modality != name:
                kind = type(tower.encoder).registry.name_of(type(tower.encoder))
                msg = f"towers.{name}: encoder {kind!r} encodes {modality}, not {name}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        self.loss.check(embed_dim=self.embed_dim, modalities=len(self.towers))
        return self


class TrainingSpec(Config):
    """How a model is trained."""

    epochs: NonNegativeInt = 3
    """Passes over the training split."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Pairs a step; each pair meets the others of its batch as negatives."""
    micro_batch: PositiveInt | None = None
    """Rows that go through towers with a trained encoder at a time, in each process: fewer need
    less memory, at the cost of about one more forward pass; the loss sees the whole batch, and the
    gradients are its gradients. null is all rows at once."""
    batch_norm: Literal["train", "eval"] = "train"
    """What BatchNorm does in towers with a trained encoder. train: it takes the statistics of the
    batch, which a micro-batch does not have, so that the two are refused together. eval: it takes
    its running statistics and leaves them as they are."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 0.01
    """On matrices only: biases, norms, the temperature and the bias have none."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises; then it falls by a cosine to 0."""
    clip_norm: PositiveFloat | None = 1.0
    """Bound on the gradient's norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocasts the towers (the loss stays fp32); auto takes it on a GPU that has it."""
    device: str = "auto"
    """auto takes a GPU if there is one; else cpu, cuda, cuda:1, ..."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the initial weights, the order of samples and dropout."""
    workers: NonNegativeInt = 2
    """Processes that decode and preprocess samples."""
    split: str = "train"
    """What is trained on; several splits are joined by +."""
    cache: Literal["auto", "off"] = "auto"
    """auto keeps the features of frozen encoders on disk."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints, besides the one at the end of each epoch."""


class EvaluationSpec(Config):
    """What is measured after each epoch and at the end."""

    split: str | None = "val"
    """Measured after each epoch; null measures nothing."""
    final_split: str = "test"
    """Measured by ``contrastive evaluate`` unless another is named."""
    templates: tuple[str, ...] = TEMPLATES
    """Sentences that classes are put into, where the data have classes."""

    @model_validator(mode="after")
    def _templates_have_a_gap(self) -> Self:
        for template in self.templates:
            if "{}" not in template:
                msg = f"template {template!r} has no {{}} for the class"
                raise ValueError(msg)
        return self


class RunSpec(Config):
    """A model, its data, and how it is trained and measured."""

    model: ModelSpec
    """What is trained."""
    data: Dataset
    """What it is trained and measured on."""
    training: TrainingSpec = TrainingSpec()
    """How it is trained."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How it is measured."""
    output: Path | None = None
    """Folder of the run; runs/NAME-OF-THE-SPEC if not given."""
