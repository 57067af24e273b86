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


@losses.register("infonce")
class InfoNCE(Loss):
    """Each row picks its partner among the batch, as in CLIP."""

    temperature: PositiveFloat = 0.07
    """Divides the cosines; the first value if it is learned. At most 1, at least 1/max_scale."""
    learn_temperature: bool = True
    """Train the temperature with the model."""
    max_scale: Scale = 100.0
    """Bound on 1/temperature in training."""
    positives: Positives = "multi"
    """What rows with the same group id are to each other: multi, all positives; mask, neither
    positive nor negative unless partners; ignore, negatives unless partners."""

    @model_validator(mode="after")
    def _temperature_is_in_bounds(self) -> Self:
        _check_temperature(self.temperature, self.max_scale)
        return self

    def build(self) -> LossModule:
        """Return an ``InfoNCELoss``."""
        from contrastive.losses.infonce import InfoNCELoss

        return InfoNCELoss(
            temperature=self.temperature,
            learn_temperature=self.learn_temperature,
            max_scale=self.max_scale,
            positives=self.positives,
        )


@losses.register("sigmoid")
class Sigmoid(Loss):
    """Each pair is judged by itself, match or not, as in SigLIP."""

    temperature: PositiveFloat = 0.1
    """First value of what divides the cosines. At most 1, at least 1/max_scale."""
    bias: FiniteFloat = -10.0
    """First value of what is added to every logit; negative, as most pairs do not match."""
    max_scale: Scale = 100.0
    """Bound on 1/temperature in training."""
    positives: Positives = "multi"
    """What rows with the same group id are to each other: multi, all positives; mask, neither
    positive nor negative unless partners; ignore, negatives unless partners."""

    @model_validator(mode="after")
    def _temperature_is_in_bounds(self) -> Self:
        _check_temperature(self.temperature, self.max_scale)
        return self

    def build(self) -> LossModule:
        """Return a ``SigmoidLoss``."""
        from contrastive.losses.sigmoid import SigmoidLoss

        return SigmoidLoss(
            temperature=self.temperature,
            bias=self.bias,
            max_scale=self.max_scale,
            positives=self.positives,
        )


def _check_temperature(temperature: float, max_scale: float) -> None:
    """Refuse a temperature that the first step would clamp."""
    if not 1 / max_scale <= temperature <= 1:
        msg = f"temperature {temperature:g} is not between 1/max_scale ({1 / max_scale:g}) and 1"
        raise ValueError(msg)
