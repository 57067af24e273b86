"""What a model is made of, and what a run does with it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast, overload

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from contrastive.config import yaml_files
from contrastive.config.arguments import path_of
from contrastive.config.base import Config, PlaceField
from contrastive.config.bounds import Factor, Name, Probability, Width
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.errors import SpecError
from contrastive.heads import Head
from contrastive.losses import Loss
from contrastive.prompts import TEMPLATES, Templates
from contrastive.spec.section import Section
from contrastive.spec.training import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NO_DATA = "describes a model, without data to train on; put it below model:, add data:"
S = TypeVar("S", bound=Config)
Shared = Literal["refuse", "drop"]


class LoRA(Section):
    """LoRA: trained low-rank updates of frozen linear layers, by peft (arXiv:2106.09685)."""

    rank: Width = 8
    """Rank of the low-rank update."""
    alpha: Factor = 16
    """The update is scaled by alpha / rank."""
    dropout: Probability = 0.0
    """Dropout probability on the input of the LoRA branch."""
    targets: tuple[str, ...] = ()
    """Glob patterns over the names of the encoder's modules: linear layers to adapt. By default,
    those in attention."""


class Tower(Section):
    """One modality: an encoder and its projection.

    Example:
        >>> tower = Tower(encoder={"type": "vit"}, head={"type": "linear"}, frozen="encoder")
        >>> tower.frozen
        'encoder'
    """

    encoder: Encoder
    """Turns raw samples into features."""
    head: Head
    """Projects features to the shared space."""
    frozen: Literal["none", "encoder", "all"] = "none"
    """What does not train: nothing, the encoder, or encoder and head. A frozen encoder runs in eval
    mode without gradients, and its features are cached."""
    unfrozen: tuple[str, ...] = ()
    """Glob patterns over the names of the encoder's parameters, such as net.layer4.*: what trains
    of an otherwise frozen encoder."""
    lora: LoRA | None = None
    """Low-rank adapters in a frozen encoder."""

    @model_validator(mode="after")
    def _frozen_but_for(self) -> Self:
        for name in ("unfrozen", "lora"):
            if getattr(self, name) and self.frozen != "encoder":
                msg = f"{name}: is for an encoder that is frozen otherwise; set frozen: encoder"
                raise ValueError(msg)
        return self


class ModelSpec(Section):
    """A contrastive model: towers by modality, and a loss.

    Example:
        >>> spec = ModelSpec(**SPEC)
        >>> spec.towers["image"].encoder.width
        8
    """

    embed_dim: Width = 256
    """Width of the shared space; every head projects to it."""
    towers: dict[str, Tower] = Field(min_length=1)
    """A tower for each modality, by its name: image, text, audio, ..."""
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] | None = None
    """Modality pairs that the loss compares, such as [[image, text], [audio, text]]; null is every
    two modalities. [image, image] is two views of each sample through one tower: two augmentations
    and two dropout masks."""
    loss: Loss
    """Loss; training minimises its mean over the modality pairs."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_run(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and "model" in fields and "towers" not in fields:
            msg = "describes a run; give what is below its model:"
            raise ValueError(msg)
        return cast("object", fields)

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
            msg = f"towers: {only} has nothing to be compared with; for two views, "
            msg += f"pairs: [[{only}, {only}]]"
            raise ValueError(msg)
        for index, pair in enumerate(self.modality_pairs):
            for name in pair:
                if name not in self.towers:
                    close = difflib.get_close_matches(name, self.towers, n=1) or self.towers
                    hint = " or ".join(map(repr, close))
                    msg = f"pairs.{index}: no tower {name!r}; did you mean {hint}?"
                    raise ValueError(msg)
            if set(pair) in map(set, self.modality_pairs[:index]):
                msg = f"pairs.{index}: {' and '.join(pair)} are a pair already; list it once"
                raise ValueError(msg)
        for name in self.towers:
            if not any(name in pair for pair in self.modality_pairs):
                msg = f"towers.{name}: is in none of the pairs; list one, or leave the tower out"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        try:
            self.loss.check(embed_dim=self.embed_dim, pairs=len(self.modality_pairs))
        except ValueError as error:
            msg = f"loss: {error}"
            raise ValueError(msg) from error
        return self

    @property
    def modality_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of modalities that the loss compares."""
        return tuple(combinations(self.towers, 2)) if self.pairs is None else self.pairs

    def views(self, modality: str) -> int:
        """How many times a training step embeds each sample of a modality."""
        return 2 if (modality, modality) in self.modality_pairs else 1


class EvaluationSpec(Section):
    """What is measured after each epoch and at the end.

    Example:
        >>> EvaluationSpec(split="test").split
        'test'
    """

    split: Name | None = "val"
    """Validation split, evaluated after each epoch; null evaluates none."""
    final_split: str = "test"
    """Measured by ``contrastive evaluate`` unless another is named."""
    templates: Templates = TEMPLATES
    """Prompt templates for zero-shot classification, where the data have classes; or the name of a
    set of them, such as imagenet."""
    shared: Shared = "refuse"
    """Train/test leakage: if the training split has some of these images, under whatever name,
    refuse to evaluate; or drop them and the other rows of their groups, and say how many."""


class RunSpec(Section):
    """A model, its data, and how it is trained and measured.

    Example:
        >>> run = RunSpec(model=SPEC, data={"type": "lines", "file": "texts.txt"})
        >>> run.training.epochs
        3
    """

    model: ModelSpec
    """What is trained."""
    data: Dataset
    """What it is trained and measured on."""
    training: TrainingSpec = TrainingSpec()
    """How it is trained."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How it is measured."""
    output: PlaceField | None = None
    """Folder of the run; runs/NAME-OF-THE-SPEC if not given. Or the address of a storage, such as
    s3://bucket/runs/a, to which a folder in runs/ is sent while the run goes on."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_model(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping) and "towers" in fields and "model" not in fields:
            raise ValueError(NO_DATA)
        return cast("object", fields)

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        best = self.training.keep.best
        if not best:
            return self
        if self.evaluation.split is None:
            msg = f"training.keep.best: {best} is not measured without evaluation.split; set it"
            raise PydanticCustomError("not_measured", "{text}", {"text": msg})
        pairs = [pair for pair in self.model.modality_pairs if pair[0] != pair[1]]
        known = {f"{a}_to_{b}" for pair in pairs for a, b in (pair, pair[::-1])}
        if (name := best.partition(".")[0]) not in known | {"zero-shot"}:
            msg = (
                f"training.keep.best: no {name} is measured; there are: {', '.join(sorted(known))}"
            )
            raise PydanticCustomError("not_measured", "{text}", {"text": msg})
        return self

    @model_validator(mode="after")
    def _towers_are_known(self) -> Self:
        for field in ("layer_decay", "checkpoint_activations"):
            for name in getattr(self.training, field):
                if name not in self.model.towers:
                    known = ", ".join(self.model.towers)
                    msg = f"training.{field}: the model has no {name} tower; it has: {known}"
                    raise PydanticCustomError("no_such_tower", "{text}", {"text": msg})
        return self


def require_run(spec: ModelSpec | RunSpec, where: str = "") -> RunSpec:
    """Return a spec that has data; ``where`` it came from is for the message.

    Raises:
        SpecError: it is that of a model alone.
    """
    if isinstance(spec, ModelSpec):
        msg = f"{where}{NO_DATA}"
        raise SpecError(msg)
    return spec


def kind_of_spec(data: Mapping[str, Any]) -> type[ModelSpec] | type[RunSpec]:
    """Return what a spec's fields describe: a model, which has towers, or else a run."""
    return ModelSpec if "towers" in data else RunSpec


@overload
def load_spec(
    spec: type[S], path: str | Path, overrides: Iterable[str] = (), *, trusted: bool | None = None
) -> S: ...
@overload
def load_spec(
    spec: str | Path,
    path: None = None,
    overrides: Iterable[str] = (),
    *,
    trusted: bool | None = None,
) -> ModelSpec | RunSpec: ...
def load_spec(
    spec: Any, path: Any = None, overrides: Iterable[str] = (), *, trusted: bool | None = None
) -> Config:
    """Read a YAML (or JSON) file as a spec, after ``a.b=value`` overrides.

    Args:
        spec: the file; or the config class that ``path`` describes, such as ``RunSpec``.
        path: the file, after a class.
        overrides: ``a.b=value``, the value in YAML; checked as if written in the file.
        trusted: the file is the user's own, so ``module:Class`` may name a component; by default,
            if it was not saved with a model or a run.

    Returns:
        An object of that class; without one, a ``ModelSpec`` if the file has towers at its top,
        else a ``RunSpec``.

    Raises:
        SpecError: one line for each mistake: ``file:line: path: problem``.

    Example:
        >>> _ = Path("model.yaml").write_text(dump_spec(ModelSpec(**SPEC)))
        >>> load_spec("model.yaml", overrides=["embed_dim=16"]).embed_dim
        16
    """
    kind, file = (kind_of_spec, spec) if path is None else (spec, path)
    if not callable(kind) or isinstance(file, (type, Config)):
        odd = type(file if callable(kind) else kind).__name__
        msg = (
            f"load_spec: {odd} does not fit; write load_spec(path) or load_spec(RunSpec, path), "
            "with overrides=[...] by name"
        )
        raise SpecError(msg)
    return yaml_files.load_spec(
        cast("Any", kind), path_of("path", file), overrides, trusted=trusted
    )
