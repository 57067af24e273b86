"""Losses: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch; each ``build`` imports what it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, PositiveFloat, model_validator

from contrastive.config import Config
from contrastive.registry import Registry

if TYPE_CHECKING:
    from contrastive.losses.module import LossModule

Positives = Literal["multi", "mask", "ignore"]
Direction = Literal["both", "a_to_b", "b_to_a"]
Execution = Literal["auto", "eager", "chunked", "fused"]
Products = Literal["fp32", "bf16"]
Negatives = Literal["global", "local"]
Scale = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Loss(Config):
    """Says how well paired embeddings agree."""

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def build(self) -> LossModule:
        """Return the loss with its learnable parameters (``log_scale``, maybe ``bias``)."""


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
    eager for small batches, else fused on a GPU with Triton, else chunked."""
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
    eager for small batches, else fused on a GPU with Triton, else chunked."""
    products: Products = "fp32"
    """Type in which chunked and fused multiply fp32 embeddings; sums are fp32 in any case."""

    def build(self) -> LossModule:
        """Return a ``SigmoidLoss``."""
        from contrastive.losses.sigmoid import SigmoidLoss

        return SigmoidLoss(self, bias=self.bias)
