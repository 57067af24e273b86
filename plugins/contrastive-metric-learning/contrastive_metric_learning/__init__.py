"""Losses and miners of pytorch-metric-learning for paired embeddings.

Config classes of losses; ``miners`` has those of miners. torch is imported in ``build()``. The
fields are those of the library, checked when a spec is read.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from contrastive.interface import Candidates, Direction, Loss, Negatives, require
from contrastive_metric_learning.miners import Margin, Miner

if TYPE_CHECKING:
    from contrastive.interface import LossModule

__all__ = [
    "Angular",
    "Circle",
    "ContrastiveMargin",
    "LiftedStructure",
    "MetricLoss",
    "Miner",
    "MultiSimilarity",
    "NTXent",
    "SNRContrastive",
    "SupCon",
    "TripletMargin",
]

Scale = Annotated[float, Field(gt=0, le=1_000_000)]
"""A factor of cosines in an exponent."""


class MetricLoss(Loss):
    """A loss of pytorch-metric-learning. Not a loss by itself: others extend it."""

    library_class: ClassVar[str]
    """Its name in ``pytorch_metric_learning.losses``."""

    candidates: Candidates = "other"
    """Where positives and negatives come from: other, the other modality; both, all rows of both
    modalities, as one set with labels."""
    direction: Direction = "both"
    """Who the anchors are: both sides in turn, or the first modality of a pair (a_to_b), or the
    second (b_to_a). One side alone, and so a queue around the loss, needs candidates: other."""
    miner: Miner | None = None
    """Chooses the pairs or triplets of a batch that count; null takes all."""
    negatives: Negatives = "global"
    """With several processes: global, their batches are one batch; local, each is by itself."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """Divides the cosines where the model is used, as by classify. The loss does not see it, and it
    is not trained."""

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.candidates == "both" and self.direction != "both":
            msg = (
                "with candidates: both, all rows are anchors: "
                f"direction {self.direction}, as a queue takes it, needs candidates: other"
            )
            raise ValueError(msg)
        return self

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""

    def build(self) -> LossModule:
        """Return a ``MetricLossModule``.

        Raises:
            MissingExtra: pytorch-metric-learning is not installed.
        """
        package = "contrastive-metric-learning"
        library = require("pytorch_metric_learning.losses", package=package)
        from contrastive_metric_learning.module import MetricLossModule

        loss = getattr(library, self.library_class)(**self.options())
        return MetricLossModule(self, loss, self.miner and self.miner.build())


class TripletMargin(MetricLoss):
    """The positive is to be nearer than the negative by a margin (FaceNet, arXiv:1503.03832)."""

    library_class: ClassVar[str] = "TripletMarginLoss"

    margin: Margin = 0.05
    """By how much, in distances of rows of length 1, which are 0 to 2."""
    smooth: bool = False
    """Take softplus for relu, so that triplets beyond the margin count a little, too."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"margin": self.margin, "smooth_loss": self.smooth}


class ContrastiveMargin(MetricLoss):
    """Positives are to be nearer than one distance, negatives farther than another.

    Hadsell et al. 2006, Dimensionality Reduction by Learning an Invariant Mapping.
    """

    library_class: ClassVar[str] = "ContrastiveLoss"

    pos_margin: Margin = 0.0
    """A positive costs nothing below this distance."""
    neg_margin: Margin = 1.0
    """A negative costs nothing beyond this distance."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"pos_margin": self.pos_margin, "neg_margin": self.neg_margin}


class SNRContrastive(ContrastiveMargin):
    """The contrastive loss of the noise-to-signal ratio between rows (arXiv:1904.02616)."""

    library_class: ClassVar[str] = "SignalToNoiseRatioContrastiveLoss"


class MultiSimilarity(MetricLoss):
    """Pairs are weighed by their own cosine and by those of the others (arXiv:1904.06627)."""

    library_class: ClassVar[str] = "MultiSimilarityLoss"

    alpha: Scale = 2.0
    """Weight of positives in the exponent."""
    beta: Scale = 50.0
    """Weight of negatives in the exponent."""
    base: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """The cosine from which on a positive is near and a negative too near."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"alpha": self.alpha, "beta": self.beta, "base": self.base}


class Circle(MetricLoss):
    """Each cosine is pulled the harder the farther it is from its optimum (arXiv:2002.10857)."""

    library_class: ClassVar[str] = "CircleLoss"

    m: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Radius of the decision boundary: positives aim at 1 - m, negatives at m."""
    gamma: Scale = 80.0
    """Scale of the cosines."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"m": self.m, "gamma": self.gamma}


class Angular(MetricLoss):
    """Bounds the angle at the negative of each triplet (arXiv:1708.01682).

    Of what a miner chooses, the positive pairs count; their negatives are all of the batch.
    """

    library_class: ClassVar[str] = "AngularLoss"

    alpha: Annotated[float, Field(gt=0, lt=90)] = 40.0
    """The angle, in degrees."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"alpha": self.alpha}


class LiftedStructure(MetricLoss):
    """Each anchor's positives against its negatives, in the generalised form (arXiv:1703.07737)."""

    library_class: ClassVar[str] = "GeneralizedLiftedStructureLoss"

    pos_margin: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """Subtracted from the distances of positives."""
    neg_margin: Annotated[float, Field(ge=-100, le=100)] = 1.0
    """From which the distances of negatives are subtracted."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"pos_margin": self.pos_margin, "neg_margin": self.neg_margin}


class NTXent(MetricLoss):
    """Each positive by itself against all negatives (SimCLR, arXiv:2002.05709)."""

    library_class: ClassVar[str] = "NTXentLoss"

    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """Divides the cosines, in the loss too. It is not trained; that of infonce is."""

    def options(self) -> dict[str, Any]:
        """Return the arguments of the library's class."""
        return {"temperature": self.temperature}


class SupCon(NTXent):
    """Each anchor's positives against all others of the batch (arXiv:2004.11362)."""

    library_class: ClassVar[str] = "SupConLoss"

    temperature: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Divides the cosines, in the loss too. It is not trained; that of supcon is."""
