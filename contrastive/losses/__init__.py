"""Losses: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch; each ``build`` imports what it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from contrastive.config.base import Config
from contrastive.config.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.losses.module import LossModule

Positives = Literal["multi", "mask", "ignore"]
Direction = Literal["both", "a_to_b", "b_to_a"]
Candidates = Literal["other", "both"]
Execution = Literal["auto", "eager", "chunked", "fused"]
Unfused = Literal["auto", "eager", "chunked"]
Products = Literal["fp32", "bf16"]
Negatives = Literal["global", "local"]
Scale = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Loss(Config):
    """Says how well paired embeddings agree."""

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def build(self) -> LossModule:
        """Return the loss with its learnable parameters (``log_scale``, maybe ``bias``)."""

    def check(self, *, embed_dim: int, pairs: int) -> None:
        """Refuse a model that the loss is not for.

        Args:
            embed_dim: D, the width of the embeddings.
            pairs: how many pairs of modalities the loss compares in each step.

        Raises:
            ValueError: says what does not fit.
        """
        if isinstance(within := getattr(self, "loss", None), Loss):
            within.check(embed_dim=embed_dim, pairs=pairs)


losses = Registry(Loss, group="contrastive.losses")


class Scaled(Loss):
    """A loss of cosines, multiplied by a logit scale. Not a loss by itself: others extend it."""

    temperature: PositiveFloat = 0.07
    """Divides the cosines; the first value if it is learned. At most 1, at least 1/max_scale."""
    learn_temperature: bool = True
    """Train the temperature with the model."""
    max_scale: Scale = 100.0
    """Bound on 1/temperature in training."""
    negatives: Negatives = "global"
    """With several processes: global, their batches are one batch; local, each is by itself."""

    @model_validator(mode="after")
    def _temperature_is_in_bounds(self) -> Self:
        if not 1 / self.max_scale <= self.temperature <= 1:
            least = f"1/max_scale ({1 / self.max_scale:g})"
            msg = f"temperature {self.temperature:g} is not between {least} and 1"
            raise ValueError(msg)
        return self


@losses.register("infonce")
class InfoNCE(Scaled):
    """Each row picks its partner among the batch, as in CLIP."""

    positives: Positives = "multi"
    """What rows with the same group id are to each other: multi, all positives; mask, neither
    positive nor negative unless partners; ignore, negatives unless partners."""
    direction: Direction = "both"
    """Who picks: both sides, or the first modality of a pair (a_to_b), or the second (b_to_a)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over the whole batch."""
    execution: Execution = "auto"
    """eager holds all logits; chunked, some rows of them; fused, a tile of them (GPU). auto takes
    eager for small batches; else fused for products in half precision on a GPU, else chunked."""
    products: Products = "fp32"
    """Type in which chunked and fused multiply fp32 embeddings; sums are fp32 in any case."""

    def build(self) -> LossModule:
        """Return an ``InfoNCELoss``."""
        from contrastive.losses.infonce import InfoNCELoss

        return InfoNCELoss(self)


@losses.register("sigmoid")
class Sigmoid(Scaled):
    """Each pair is judged by itself, match or not, as in SigLIP."""

    temperature: PositiveFloat = 0.1
    """Divides the cosines; the first value if it is learned. At most 1, at least 1/max_scale."""
    bias: FiniteFloat = -10.0
    """First value of what is added to every logit; negative, as most pairs do not match."""
    positives: Positives = "multi"
    """What rows with the same group id are to each other: multi, all positives; mask, neither
    positive nor negative unless partners; ignore, negatives unless partners."""
    execution: Execution = "auto"
    """eager holds all logits; chunked, some rows of them; fused, a tile of them (GPU). auto takes
    eager for small batches; else fused for products in half precision on a GPU, else chunked."""
    products: Products = "fp32"
    """Type in which chunked and fused multiply fp32 embeddings; sums are fp32 in any case."""

    def build(self) -> LossModule:
        """Return a ``SigmoidLoss``."""
        from contrastive.losses.sigmoid import SigmoidLoss

        return SigmoidLoss(self, bias=self.bias)


class Choice(Scaled):
    """Each row chooses among candidates. Not a loss by itself: others extend it."""

    positives: Positives = "multi"
    """What rows with the same group id are to each other: multi, all positives; mask, neither
    positive nor negative unless partners; ignore, negatives unless partners."""
    direction: Direction = "both"
    """Who chooses: both sides, or the first modality of a pair (a_to_b), or the second (b_to_a)."""
    candidates: Candidates = "other"
    """Where negatives come from: other, the other modality, as in CLIP; both, the own one too, as
    in SimCLR."""
    execution: Unfused = "auto"
    """eager holds all logits; chunked, some rows of them, which the backward pass computes again.
    auto takes eager for small batches, else chunked."""


@losses.register("dcl")
class DCL(Choice):
    """InfoNCE whose positives leave the denominator, for small batches.

    Decoupled contrastive learning (Yeh et al. 2022, arXiv:2110.06848).
    """

    temperature: PositiveFloat = 0.1
    """Divides the cosines; the first value if it is learned. At most 1, at least 1/max_scale."""
    learn_temperature: bool = False
    """Train the temperature with the model. It then falls to 1/max_scale once the pairs are told
    apart, as nothing bounds this loss from below; the paper keeps it."""
    sigma: PositiveFloat | None = None
    """Weighs positives, those that are far apart more (DCLW); smaller is more uneven, the paper
    has 0.5. null weighs all alike."""

    def build(self) -> LossModule:
        """Return a ``DCLLoss``."""
        from contrastive.losses.dcl import DCLLoss

        return DCLLoss(self)


@losses.register("hard-negative")
class HardNegative(Choice):
    """InfoNCE in which a negative counts the more the closer it is.

    Robinson et al. 2021, arXiv:2010.04592; for images and texts, HN-NCE: Radenovic et al. 2023,
    arXiv:2301.02280.
    """

    beta: NonNegativeFloat = 0.25
    """How much more: a negative with logit x has weight exp(beta x). 0 weighs all alike. The paper
    takes 0.5 to 2 at a temperature of 0.5; a lower temperature wants less."""
    tau_plus: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the negatives that are taken to be unknown positives, and subtracted: 1 / classes
    for classes of equal size. 0 subtracts nothing."""

    def build(self) -> LossModule:
        """Return a ``HardNegativeLoss``."""
        from contrastive.losses.hard_negative import HardNegativeLoss

        return HardNegativeLoss(self)


@losses.register("supcon")
class SupCon(Scaled):
    """Each row picks all others of its group, in both modalities; for groups that are classes.

    Supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362). Where ids all differ, it
    is NT-Xent, as in SimCLR.
    """

    temperature: PositiveFloat = 0.1
    """Divides the cosines; the first value if it is learned. At most 1, at least 1/max_scale."""
    execution: Unfused = "auto"
    """eager holds all logits; chunked, some rows of them, which the backward pass computes again.
    auto takes eager for small batches, else chunked."""

    def build(self) -> LossModule:
        """Return a ``SupConLoss``."""
        from contrastive.losses.supcon import SupConLoss

        return SupConLoss(self)


@losses.register("matryoshka")
class Matryoshka(Loss):
    """Another loss at several widths, so that the first dimensions of embeddings serve alone.

    Kusupati et al. 2022, arXiv:2205.13147. A queue within serves all widths.
    """

    loss: Loss
    """The loss at each width; its temperature is the same at all."""
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1, examples=[[64, 128, 256]])]
    """How many first dimensions to compare, normalised again; embed_dim itself is one of them if
    it is listed."""
    weights: tuple[PositiveFloat, ...] | None = None
    """What the loss of each width is multiplied by before they are added; null is 1 for each."""

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if len(set(self.widths)) != len(self.widths):
            msg = f"widths {list(self.widths)} name one twice; list each once"
            raise ValueError(msg)
        if self.weights is not None and len(self.weights) != len(self.widths):
            msg = f"{len(self.weights)} weights for {len(self.widths)} widths; give one for each"
            raise ValueError(msg)
        _refuse(self.loss, Distillation, Matryoshka, by="matryoshka")
        return self

    def check(self, *, embed_dim: int, pairs: int) -> None:
        """Refuse widths that embeddings do not have."""
        super().check(embed_dim=embed_dim, pairs=pairs)
        if max(self.widths) > embed_dim:
            msg = f"width {max(self.widths)} of matryoshka is more than embed_dim {embed_dim}"
            raise ValueError(msg)

    def build(self) -> LossModule:
        """Return a ``MatryoshkaLoss``; of a queue, a ``QueueLoss`` that holds it."""
        if isinstance(self.loss, Queue):  # the sum of the widths' losses is the same either way
            within = self.model_copy(update={"loss": self.loss.loss})
            return self.loss.model_copy(update={"loss": within}).build()
        from contrastive.losses.matryoshka import MatryoshkaLoss

        return MatryoshkaLoss(self)


@losses.register("distillation")
class Distillation(Loss):
    """Another loss, and a teacher's similarities to agree with.

    SEED (Fang et al. 2021, arXiv:2101.04731), TinyCLIP (Wu et al. 2023, arXiv:2309.12314). For
    training loops of your own: the loss is called with the teacher's embeddings, which
    `contrastive train` does not have.
    """

    loss: Loss
    """The loss without a teacher; its temperature is the student's."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the teacher; the rest is the other loss's. 1 is the teacher alone."""
    teacher_temperature: PositiveFloat = 0.01
    """Divides the teacher's cosines: the one that it was trained with, 0.01 for OpenAI's CLIP."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        _refuse(self.loss, Distillation, by="distillation")
        return self

    def build(self) -> LossModule:
        """Return a ``DistillationLoss``."""
        from contrastive.losses.distillation import DistillationLoss

        return DistillationLoss(self)


@losses.register("queue")
class Queue(Loss):
    """Another loss whose batches also meet the embeddings of the batches before.

    Cross-batch memory (Wang et al. 2020, arXiv:1912.06798), the queue of MoCo (He et al. 2020,
    arXiv:1911.05722). For one pair of modalities.
    """

    loss: Loss
    """The loss; a direction of its own, if it has one, is kept."""
    size: NonNegativeInt = Field(examples=[4096])
    """Past pairs that are kept. They are saved with the model, as resuming needs them. More reach
    further back: what the towers have unlearned since is wrong about them."""

    @model_validator(mode="after")
    def _loss_has_two_sides(self) -> Self:
        _refuse(self.loss, Distillation, Queue, SupCon, by="queue")
        return self

    def check(self, *, embed_dim: int, pairs: int) -> None:
        """Refuse more pairs of modalities than the queue has sides for."""
        super().check(embed_dim=embed_dim, pairs=pairs)
        if pairs > 1:
            msg = (
                f"queue is for one pair of modalities, and there are {pairs}; take the loss within"
            )
            raise ValueError(msg)

    def build(self) -> LossModule:
        """Return a ``QueueLoss``."""
        from contrastive.losses.queue import QueueLoss

        return QueueLoss(self)


def _refuse(loss: Loss, *kinds: type[Loss], by: str) -> None:
    """Say which loss cannot be within ``by``, at whatever depth."""
    found = next((within for within in _nested(loss) if isinstance(within, kinds)), None)
    if found is None:
        return
    name = losses.name_of(type(found))
    remedies = {
        by: f"one {by} is enough",
        "supcon": "it has no sides; take infonce",
    }
    msg = f"{by} cannot hold {name}: {remedies.get(name, f'put {name} around {by}')}"
    raise ValueError(msg)


def _nested(loss: Loss) -> Iterator[Loss]:
    yield loss
    if isinstance(within := getattr(loss, "loss", None), Loss):
        yield from _nested(within)
