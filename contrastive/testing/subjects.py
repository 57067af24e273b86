"""What is examined: a component, with models and samples to examine it by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.nn.functional import normalize

from contrastive.config.base import Config
from contrastive.encoders import CBOW, Encoder
from contrastive.errors import TrainingError
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec, Tower
from contrastive.testing.checks import Fault, Skipped
from contrastive.testing.counterpart import Counterpart
from contrastive.testing.generic import Subject
from contrastive.testing.processes import pickled
from contrastive.testing.rows import RowsSubject
from contrastive.testing.samples import Examples, examples_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from contrastive.encoders.module import EncoderModule
    from contrastive.losses import Loss
    from contrastive.losses.module import LossModule

EMBED_DIM = 8


@dataclass(frozen=True)
class EncoderSubject(RowsSubject):
    """An encoder that is examined."""

    config: Encoder
    given: Sequence[Any] | None
    """Samples of the author's."""
    folder: Path
    """Temporary."""

    noun = "features"

    def make(self) -> EncoderModule:
        """Build the encoder."""
        return self.config.build()

    @property
    def encoder(self) -> EncoderModule:
        """The module that checks share."""
        return cast("EncoderModule", self.module)

    @cached_property
    def examples(self) -> Examples:
        """Samples of its modality."""
        return examples_of(self.config.modality, self.given, self.folder)

    @cached_property
    def samples(self) -> list[Any]:
        """The ordinary samples, and those of the odd ones that it takes."""
        return [*self.examples.typical, *(each for each in self.examples.edge if self._takes(each))]

    def _takes(self, sample: object) -> bool:
        try:
            self.encoder.preprocess([sample])
        except Exception:  # of whatever kind: ``refuses`` tells
            return False
        return True

    @property
    def raw_samples(self) -> Sequence[Any]:
        """The ordinary samples."""
        return self.examples.typical

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.samples)

    @property
    def width(self) -> int:
        """F."""
        return self.encoder.out_dim

    def forward(self, module: nn.Module, places: Sequence[int]) -> Tensor:
        """Return features."""
        preprocess = cast("EncoderModule", module).preprocess
        return module(**preprocess([self.samples[place] for place in places]))

    def tower(self) -> Tower:
        """Return a tower in which the encoder is frozen."""
        return Tower(encoder=self.config, head=Linear(), frozen="encoder")

    def model(self, *, frozen: bool) -> ModelSpec:
        """Return a model of the encoder and a bag of words."""
        tower = self.tower().model_copy(update={"frozen": "encoder" if frozen else "none"})
        counterpart = Counterpart if self.config.modality == "text" else CBOW
        other = Tower(encoder=counterpart(width=8, buckets=64), head=Linear())
        towers = {self.config.modality: tower, counterpart.modality: other}
        return ModelSpec(embed_dim=EMBED_DIM, towers=towers, loss=InfoNCE())

    def mixing(self, place: int) -> tuple[str, str]:
        """Tell padding from other dependence by the shapes of the inputs."""
        alone = self.encoder.preprocess([self.samples[place]])
        batch = self.encoder.preprocess(self.samples)
        if all(alone[name].shape[1:] == x.shape[1:] for name, x in batch.items()):
            return super().mixing(place)
        return "when it is padded to longer ones", "mask padding in attention and before pooling"

    @cached_property
    def sent(self) -> bytes:
        """The preprocessing and the samples, as workers get them."""
        preprocess = pickled(self.encoder.preprocess, "preprocess")
        return pickled((preprocess, self.samples), "samples")


Ids = Literal["honoured", "unused"]


WIDTHS = (32, 128, 512, 2048)  # D that are tried: a loss may need many dimensions


FAR = 50.0  # a logarithm that no logit scale should have


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss that is examined; every call is of a module built afresh, as some have a memory."""

    config: Loss
    embed_dim: int | None
    ids: Ids

    def make(self) -> LossModule:
        """Build the loss."""
        torch.manual_seed(0)
        return self.config.build()

    @cached_property
    def width(self) -> int:
        """D: the author's, or the first that the loss takes."""
        said = ""
        for width in [self.embed_dim] if self.embed_dim else WIDTHS:
            try:
                self.config.check(embed_dim=width, pairs=1)
            except ValueError as error:
                said = str(error)
            else:
                return width
        raise Fault(f"it takes no width that was tried ({said})", "say embed_dim=")

    @property
    def ignores_ids(self) -> bool:
        """Whether its fields say that ids are not looked at."""
        settings = [getattr(each, "positives", None) for each in _within(self.config)]
        return self.ids == "unused" or "ignore" in settings

    def pairs(self, n: int = 8, *, apart: bool = False) -> tuple[Tensor, Tensor]:
        """Return related embeddings; with ``apart``, equal ones at right angles to the others."""
        dice = torch.Generator().manual_seed(0)
        rows = torch.randn(self.width, self.width, generator=dice)
        if apart:
            at_right_angles = cast("Tensor", torch.linalg.qr(rows)[0])
            return at_right_angles[:n], at_right_angles[:n].clone()
        other = rows + torch.randn(rows.shape, generator=dice)
        return normalize(rows[:n], dim=1), normalize(other[:n], dim=1)

    def call(
        self,
        a: Tensor,
        b: Tensor,
        ids: Tensor | None = None,
        *,
        module: LossModule | None = None,
        log_scale: float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the loss gives in training mode."""
        module = (self.make() if module is None else module).train()
        if log_scale is not None:
            with torch.no_grad():
                module.log_scale.fill_(log_scale)
        try:
            return module(a, b, ids)
        except TrainingError as error:
            msg = f"embeddings and ids are not enough for it: {error}"
            raise Skipped(msg) from None

    def value(self, *batch: Any, **how: Any) -> float:
        """Return the loss as a number."""
        return float(self.call(*batch, **how)[0].detach())

    def model(self) -> ModelSpec:
        """Return a model of two bags of words."""
        towers = {
            cls.modality: Tower(encoder=cls(width=8, buckets=64), head=Linear())
            for cls in (CBOW, Counterpart)
        }
        return ModelSpec(embed_dim=self.width, towers=towers, loss=self.config)


def _within(config: Config) -> Iterator[Config]:
    yield config
    for name in type(config).model_fields:
        if isinstance(part := getattr(config, name), Config):
            yield from _within(part)


def gradients_of(of: Tensor, inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of a scalar; None for an input that it does not depend on."""
    return torch.autograd.grad(of, inputs, allow_unused=True)
