"""Losses: the interface, the registry, and what comes built in.

Config classes only; torch is imported in ``build()``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from contrastive.config.base import Config
from contrastive.config.bounds import Entries, Factor, Probability, Rate, Weight, Width
from contrastive.config.other_names import LOSSES
from contrastive.config.registry import Registry
from contrastive.config.renamed import NewName, RenamedFields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.losses.module import LossModule

Positives = Literal["multi", "mask", "ignore"]
Direction = Literal["both", "a_to_b", "b_to_a"]
"""Which sides are anchors: both, or the rows of one, compared with the rows of the other.

Example:
    >>> losses["infonce"](direction="a_to_b").direction
    'a_to_b'
"""
Candidates = Literal["other", "both"]
"""Where negatives come from: the other modality, or also the row's own.

Example:
    >>> losses["dcl"](candidates="both").candidates
    'both'
"""
Execution = Literal["auto", "eager", "chunked", "fused"]
Unfused = Literal["auto", "eager", "chunked"]
MatmulDtype = Literal["auto", "fp32", "bf16"]
Exchange = Literal["gather", "ring"]
Negatives = Literal["global", "local"]
"""Whether a batch is compared over all ranks or on each by itself.

Example:
    >>> losses["infonce"](negatives="local").negatives
    'local'
"""
Scale = Annotated[float, Field(ge=1, le=1_000_000)]


class Loss(Config):
    """A contrastive loss over paired embeddings.

    Example:
        >>> loss = losses["infonce"]().build()
        >>> value, metrics = loss(torch.eye(4), torch.eye(4), torch.arange(4))
        >>> metrics["accuracy"]
        tensor(1.)
    """

    kind: ClassVar[str] = "loss"

    @abstractmethod
    def build(self) -> LossModule:
        """Return the loss module with its parameters (``log_scale``, maybe ``bias``)."""

    def check(self, *, embed_dim: int, pairs: int) -> None:
        """Check that the loss fits a model.

        Args:
            embed_dim: D, the width of the embeddings.
            pairs: how many modality pairs the loss is computed for in each step.

        Raises:
            ValueError: says what does not fit.
        """
        if isinstance(within := getattr(self, "loss", None), Loss):
            within.check(embed_dim=embed_dim, pairs=pairs)


losses = Registry(Loss, group="contrastive.losses", other_names=LOSSES)
"""Losses by the name that a spec gives as ``type``.

Example:
    >>> losses["infonce"](temperature=0.05).temperature
    0.05
"""


class Scaled(Loss):
    """Base of losses over cosines times a logit scale.

    Example:
        >>> issubclass(losses["infonce"], Scaled), losses["infonce"]().temperature
        (True, 0.07)
    """

    temperature: Rate = 0.07
    """Divides the cosines; the initial value if it is learned. Between 1/max_scale and 1."""
    learn_temperature: bool = True
    """Train the temperature with the model."""
    max_scale: Scale = 100.0
    """Upper bound of the logit scale 1/temperature in training."""
    negatives: Negatives = "global"
    """With several ranks: global, negatives come from all of them; local, from its own rank."""

    @model_validator(mode="after")
    def _temperature_is_in_bounds(self) -> Self:
        if not 1 / self.max_scale <= self.temperature <= 1:
            least = f"1/max_scale ({1 / self.max_scale:g})"
            msg = f"temperature {self.temperature:g} is not between {least} and 1"
            raise ValueError(msg)
        return self


class Pairwise(Scaled):
    """Base of the losses that have a form for many ranks."""

    positives: Positives = "multi"
    """Role of pairs with equal group ids that are not matched pairs: multi, positives; mask, left
    out; ignore, negatives."""
    execution: Execution = "auto"
    """eager holds all logits, chunked some rows of them, fused a tile of them (GPU). auto is eager
    for small batches; else fused for products in bf16 or fp16 on a GPU, else chunked."""
    renamed: ClassVar[RenamedFields] = {"products": NewName("matmul_dtype", until="0.1")}
    earlier_defaults: ClassVar[Mapping[str, str]] = {"matmul_dtype": "fp32"}
    matmul_dtype: MatmulDtype = "auto"
    """Dtype of the matrix products of fp32 embeddings; sums are always fp32. auto is bf16 where
    training on a GPU runs in bf16, else fp32. A CPU takes bf16 in chunked only."""
    exchange: Exchange = "gather"
    """How several ranks compare rows: gather, each holds the rows of all; ring, those of two ranks
    at a time, in less memory."""

    @model_validator(mode="after")
    def _ring_has_no_logits_of_all(self) -> Self:
        if self.exchange == "ring":
            if getattr(self, "execution", None) == "eager":
                msg = "exchange ring holds no logits of all ranks; take execution auto"
                raise ValueError(msg)
            if getattr(self, "label_smoothing", 0):
                msg = "exchange ring has no label_smoothing; take exchange gather"
                raise ValueError(msg)
        return self


@losses.register("infonce")
class InfoNCE(Pairwise):
    """Symmetric cross-entropy over in-batch similarities, as in CLIP."""

    direction: Direction = "both"
    """Anchors: both modalities, or only the first of a pair (a_to_b), or the second (b_to_a)."""
    label_smoothing: Probability = 0.0
    """Share of the target that is spread uniformly over the candidates."""

    def build(self) -> LossModule:
        """Return an ``InfoNCELoss``."""
        from contrastive.losses.infonce import InfoNCELoss

        return InfoNCELoss(self)


@losses.register("sigmoid")
class Sigmoid(Pairwise):
    """Binary cross-entropy of every pair, matched or not, as in SigLIP."""

    temperature: Rate = 0.1
    """Divides the cosines; the initial value if it is learned. Between 1/max_scale and 1."""
    bias: Annotated[float, Field(ge=-1_000_000, le=1_000_000)] = -10.0
    """Initial bias of the logits; negative, since most pairs do not match."""

    def build(self) -> LossModule:
        """Return a ``SigmoidLoss``."""
        from contrastive.losses.sigmoid import SigmoidLoss

        return SigmoidLoss(self, bias=self.bias)


class AnchorConfig(Scaled):
    """Base of losses in which anchors are compared with candidates."""

    positives: Positives = "multi"
    """Role of pairs with equal group ids that are not matched pairs: multi, positives; mask, left
    out; ignore, negatives."""
    direction: Direction = "both"
    """Anchors: both modalities, or only the first of a pair (a_to_b), or the second (b_to_a)."""
    candidates: Candidates = "other"
    """Negatives: other, from the other modality, as in CLIP; both, also from the anchor's own, as
    in SimCLR."""
    execution: Execution = "auto"
    """eager holds all logits, chunked some rows of them, fused a tile of them (GPU). auto is eager
    for small batches; else fused for products in bf16 or fp16 on a GPU, else chunked."""
    matmul_dtype: MatmulDtype = "auto"
    """Dtype of the matrix products of fp32 embeddings; sums are always fp32. auto is bf16 where
    training on a GPU runs in bf16, else fp32. A CPU takes bf16 in chunked only."""


@losses.register("dcl")
class DCL(AnchorConfig):
    """InfoNCE without the positive in the denominator, for small batches.

    Decoupled contrastive learning (Yeh et al. 2022, arXiv:2110.06848).
    """

    temperature: Rate = 0.1
    """Divides the cosines; the initial value if it is learned. Between 1/max_scale and 1."""
    learn_temperature: bool = False
    """Train the temperature with the model. Nothing bounds this loss from below, so the temperature
    then falls to 1/max_scale; the paper keeps it fixed."""
    sigma: Factor | None = None
    """Weights positives by a von Mises-Fisher kernel, distant ones more (DCLW); the paper has 0.5.
    null weights all equally."""

    def build(self) -> LossModule:
        """Return a ``DCLLoss``."""
        from contrastive.losses.dcl import DCLLoss

        return DCLLoss(self)


@losses.register("hard-negative")
class HardNegative(AnchorConfig):
    """InfoNCE that weights hard negatives more.

    Robinson et al. 2021, arXiv:2010.04592; for images and texts, HN-NCE: Radenovic et al. 2023,
    arXiv:2301.02280.
    """

    execution: Unfused = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """eager holds all logits, chunked some rows of them. auto is eager for small batches, else
    chunked."""
    beta: Weight = 0.25
    """A negative with logit x has weight exp(beta x); 0 weights all equally. The paper takes 0.5 to
    2 at a temperature of 0.5; use less at a lower temperature."""
    tau_plus: Probability = 0.0
    """Class prior: share of negatives that are assumed to be false and subtracted, 1 / classes for
    classes of equal size. 0 subtracts nothing."""

    def build(self) -> LossModule:
        """Return a ``HardNegativeLoss``."""
        from contrastive.losses.hard_negative import HardNegativeLoss

        return HardNegativeLoss(self)


@losses.register("supcon")
class SupCon(Scaled):
    """Supervised contrastive loss: all rows of a group are positives, within and across modalities.

    Khosla et al. 2020, arXiv:2004.11362. For groups that are classes; where all ids differ, it is
    NT-Xent, as in SimCLR.
    """

    temperature: Rate = 0.1
    """Divides the cosines; the initial value if it is learned. Between 1/max_scale and 1."""
    execution: Execution = "auto"
    """eager holds all logits, chunked some rows of them, fused a tile of them (GPU). auto is eager
    for small batches; else fused for products in bf16 or fp16 on a GPU, else chunked."""
    matmul_dtype: MatmulDtype = "auto"
    """Dtype of the matrix products of fp32 embeddings; sums are always fp32. auto is bf16 where
    training on a GPU runs in bf16, else fp32. A CPU takes bf16 in chunked only."""

    def build(self) -> LossModule:
        """Return a ``SupConLoss``."""
        from contrastive.losses.supcon import SupConLoss

        return SupConLoss(self)


@losses.register("matryoshka")
class Matryoshka(Loss):
    """Sums another loss over prefixes of the embeddings, so that they can be truncated.

    Matryoshka representation learning (Kusupati et al. 2022, arXiv:2205.13147). An inner queue
    serves all widths.
    """

    loss: Loss
    """The loss at each width; all share its temperature."""
    widths: Annotated[tuple[Width, ...], Field(min_length=1, examples=[[64, 128, 256]])]
    """Lengths of the prefixes, which are normalised again; list embed_dim to include the whole."""
    weights: tuple[Factor, ...] | None = None
    """Weight of the loss of each width; null is 1 for each."""

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
    """Another loss, plus the KL divergence from a teacher's similarities.

    SEED (Fang et al. 2021, arXiv:2101.04731), TinyCLIP (Wu et al. 2023, arXiv:2309.12314). For
    training loops of your own: the loss is called with the teacher's embeddings, which
    `contrastive train` does not have.
    """

    loss: Loss
    """The loss of the student; its temperature is the student's."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the distillation term; the other loss has 1 - weight."""
    teacher_temperature: Rate = 0.01
    """Temperature that the teacher was trained with: 0.01 for OpenAI's CLIP."""

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
    """Adds a memory bank of past embeddings as extra negatives.

    Cross-batch memory (Wang et al. 2020, arXiv:1912.06798), the queue of MoCo (He et al. 2020,
    arXiv:1911.05722). For one modality pair.
    """

    loss: Loss
    """The loss of the batch and the queue; its direction, if it has one, is kept."""
    size: Entries = Field(examples=[4096])
    """Pairs in the memory bank, saved with the model for resuming. A larger bank holds staler
    embeddings: the towers have changed since."""

    @model_validator(mode="after")
    def _loss_has_two_sides(self) -> Self:
        _refuse(self.loss, Distillation, Queue, SupCon, by="queue")
        return self

    def check(self, *, embed_dim: int, pairs: int) -> None:
        """Refuse more pairs of modalities than the queue has sides for."""
        super().check(embed_dim=embed_dim, pairs=pairs)
        if pairs > 1:
            msg = f"queue is for one pair of modalities, and there are {pairs}; take its inner loss"
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
        "supcon": "it has no direction; use infonce",
    }
    msg = f"{by} cannot hold {name}: {remedies.get(name, f'put {name} around {by}')}"
    raise ValueError(msg)


def _nested(loss: Loss) -> Iterator[Loss]:
    yield loss
    if isinstance(within := getattr(loss, "loss", None), Loss):
        yield from _nested(within)
