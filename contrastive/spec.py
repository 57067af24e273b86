"""What a model is made of, and what a run does with it."""

from __future__ import annotations

import difflib
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from contrastive.config.base import Config
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.heads import Head
from contrastive.losses import Loss
from contrastive.prompts import TEMPLATES, Templates

if TYPE_CHECKING:
    from collections.abc import Mapping

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(gt=0, le=1)]


class LoRA(Config):
    """Small matrices that train beside frozen linear layers, by peft (arXiv:2106.09685)."""

    rank: PositiveInt = 8
    """Of each product of two matrices."""
    alpha: PositiveFloat = 16
    """The product counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the matrices' inputs that training drops."""
    targets: tuple[str, ...] = ()
    """Glob patterns over the names of the encoder's modules: the linear layers that get matrices.
    If none are given, those in attention."""


class Tower(Config):
    """One modality: an encoder and its projection."""

    encoder: Encoder
    """Turns raw samples into features."""
    head: Head
    """Projects features to the shared space."""
    frozen: Literal["none", "encoder", "all"] = "none"
    """What stays as it is: nothing, the encoder, or the encoder and the head. A frozen encoder
    runs in eval mode without gradients, and its features are cached."""
    unfrozen: tuple[str, ...] = ()
    """Glob patterns over the names of the encoder's parameters, such as net.layer4.*: what trains
    of an encoder that is frozen otherwise."""
    lora: LoRA | None = None
    """Matrices that train in a frozen encoder."""

    @model_validator(mode="after")
    def _frozen_but_for(self) -> Self:
        for name in ("unfrozen", "lora"):
            if getattr(self, name) and self.frozen != "encoder":
                msg = f"{name} is for an encoder that is frozen otherwise; set frozen: encoder"
                raise ValueError(msg)
        return self


class ModelSpec(Config):
    """A contrastive model: towers by modality, and a loss."""

    embed_dim: PositiveInt = 256
    """Width of the shared space; every head projects to it."""
    towers: dict[str, Tower] = Field(min_length=1)
    """A tower for each modality, by its name: image, text, audio, ..."""
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] | None = None
    """Modalities that the loss compares, such as [[image, text], [audio, text]]; null is every two
    of them. A modality with itself, [image, image], is two views of each sample: two augmentations,
    and dropout drawn twice, through one tower."""
    loss: Loss
    """What training minimises: its mean over the pairs."""

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
    def _pairs_join_the_towers(self) -> Self:
        if len(self.towers) == 1 and self.pairs is None:
            (only,) = self.towers
            msg = (
                f"{only} has nothing to be compared with; for two views, pairs: [[{only}, {only}]]"
            )
            raise ValueError(msg)
        for place, pair in enumerate(self.modality_pairs):
            for name in pair:
                if name not in self.towers:
                    close = difflib.get_close_matches(name, self.towers, n=1) or self.towers
                    hint = " or ".join(map(repr, close))
                    msg = f"pairs.{place}: no tower {name!r}; did you mean {hint}?"
                    raise ValueError(msg)
            if set(pair) in map(set, self.modality_pairs[:place]):
                msg = f"pairs.{place}: {' and '.join(pair)} are a pair already; list it once"
                raise ValueError(msg)
        for name in self.towers:
            if not any(name in pair for pair in self.modality_pairs):
                msg = f"towers.{name}: is in none of the pairs; list one, or leave the tower out"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        self.loss.check(embed_dim=self.embed_dim, pairs=len(self.modality_pairs))
        return self

    @property
    def modality_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of modalities that the loss compares."""
        return tuple(combinations(self.towers, 2)) if self.pairs is None else self.pairs

    def views(self, modality: str) -> int:
        """How many times a training step embeds each sample of a modality."""
        return 2 if (modality, modality) in self.modality_pairs else 1


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
    lr_factors: dict[str, PositiveFloat] = Field(default_factory=dict)
    """What the learning rate is multiplied by, for glob patterns over the names of the model's
    parameters, such as towers.text.encoder.*; where several match, by each of them."""
    layer_decay: dict[str, Decay] = Field(default_factory=dict)
    """By tower: what the learning rate of the encoder falls by from each layer to the one before
    it. The last of L layers has lr times this, what comes before the first lr times this to the
    power of L + 1."""
    checkpoint_activations: tuple[str, ...] = ()
    """Towers whose encoder forgets the activations inside its layers and computes them again for
    the gradients: less memory, at the cost of about one more forward pass."""
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
    templates: Templates = TEMPLATES
    """Sentences that classes are put into, where the data have classes; or the name of a set of
    them, such as imagenet."""

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

    @model_validator(mode="after")
    def _towers_are_known(self) -> Self:
        for field in ("layer_decay", "checkpoint_activations"):
            for name in getattr(self.training, field):
                if name not in self.model.towers:
                    known = ", ".join(self.model.towers)
                    msg = f"training.{field}: the model has no {name} tower; it has: {known}"
                    raise PydanticCustomError("no_such_tower", "{text}", {"text": msg})
        return self


def kind_of_spec(data: Mapping[str, Any]) -> type[ModelSpec] | type[RunSpec]:
    """Return what a spec's fields describe: a model, which has towers, or else a run."""
    return ModelSpec if "towers" in data else RunSpec
