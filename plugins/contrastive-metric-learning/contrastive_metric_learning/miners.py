"""Miners: a kind of component that the core does not have, with a registry of its own.

Other packages add miners through the entry points ``contrastive.miners``, as this one does.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from contrastive.interface import Config, Registry, require

if TYPE_CHECKING:
    from torch import nn

Margin = Annotated[float, Field(ge=0, le=100)]
"""A difference of distances or cosines, which are 2 at most."""


class Miner(Config):
    """Chooses the pairs or triplets of a batch that a loss is made of."""

    kind: ClassVar[str] = "miner"

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a miner of pytorch-metric-learning, which draws no random numbers.

        It is called with embeddings, labels and maybe reference embeddings and labels, and returns
        the indices of triplets, or of positive and of negative pairs.
        """


miners = Registry(Miner, group="contrastive.miners")


class BatchHard(Miner):
    """The farthest positive and the nearest negative of each anchor (arXiv:1703.07737)."""

    def build(self) -> nn.Module:
        """Return the library's ``BatchHardMiner``."""
        return _library().BatchHardMiner()


class TripletMargin(Miner):
    """Triplets by how much nearer the positive is than the negative (FaceNet, arXiv:1503.03832)."""

    margin: Margin = 0.2
    """In distances of rows of length 1, which are 0 to 2."""
    triplets: Literal["all", "hard", "semihard", "easy"] = "all"
    """all that violate the margin; hard, whose negative is nearer; semihard, whose positive is
    nearer, by less than the margin; easy, that keep it."""

    def build(self) -> nn.Module:
        """Return the library's ``TripletMarginMiner``."""
        return _library().TripletMarginMiner(margin=self.margin, type_of_triplets=self.triplets)


class PairMargin(Miner):
    """Positives beyond a distance, and negatives within one."""

    pos_margin: Margin = 0.2
    """Positives that are nearer are left out."""
    neg_margin: Margin = 0.8
    """Negatives that are farther are left out."""

    def build(self) -> nn.Module:
        """Return the library's ``PairMarginMiner``."""
        return _library().PairMarginMiner(pos_margin=self.pos_margin, neg_margin=self.neg_margin)


class MultiSimilarity(Miner):
    """Pairs that are harder than the easiest of the other kind (arXiv:1904.06627)."""

    epsilon: Margin = 0.1
    """By how much a pair may be easier, in cosines."""

    def build(self) -> nn.Module:
        """Return the library's ``MultiSimilarityMiner``."""
        return _library().MultiSimilarityMiner(epsilon=self.epsilon)


class Angular(Miner):
    """Triplets whose angle at the negative is above a bound (arXiv:1708.01682)."""

    angle: Annotated[float, Field(ge=0, lt=90)] = 20.0
    """The bound, in degrees."""

    def build(self) -> nn.Module:
        """Return the library's ``AngularMiner``."""
        return _library().AngularMiner(angle=self.angle)


def _library() -> Any:
    return require("pytorch_metric_learning.miners", package="contrastive-metric-learning")
