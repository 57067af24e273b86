"""The config of several datasets at once."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contrastive.data.samples import Samples  # noqa: TC001 - of a config class
from contrastive.datasets import Dataset, Purpose, SplitReader, datasets


def _plain_name(name: str) -> str:
    if not name or not name.replace("-", "_").replace("_", "a").isalnum():
        msg = f"{name!r} is no name; use letters, digits, - and _"
        raise ValueError(msg)
    return name


DatasetName = Annotated[str, AfterValidator(_plain_name)]
"""Of a dataset in a mix."""


@datasets.register("mix")
class Mix(Dataset):
    """Several datasets at once, each with its share of every batch, whatever the number of ranks.

    An epoch has as many rows as the datasets have together; one that is read faster than that is
    read again, in another order. Splits to measure are those of all datasets, whatever the weights.
    """

    datasets: Annotated[dict[DatasetName, Dataset], Field(min_length=1)] = Field(
        examples=[{"sentences": {"type": "lines", "file": "sentences.txt"}}]
    )
    """By a name of yours, which messages and places of rows begin with."""
    weights: dict[DatasetName, Annotated[float, Field(gt=0, le=1_000_000)]] | None = None
    """What each dataset has of a batch, relative to the others; by default its number of rows."""
    ids: Literal["own", "shared"] = "own"
    """own: rows of two datasets are never of one group. shared: those with equal ids are, as where
    two datasets describe the same images."""

    @model_validator(mode="after")
    def _has_weights_of_all(self) -> Self:
        if self.weights is not None and (odd := self.weights.keys() ^ self.datasets.keys()):
            name = min(odd)
            what = "has no weight" if name in self.datasets else "has a weight, but is no dataset"
            msg = f"{name!r} {what}; give weights for: {', '.join(self.datasets)}"
            raise ValueError(msg)
        return self

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read a split of each dataset; nothing is decoded.

        Args:
            split: one that the datasets have, or several joined by ``+``; what one of them lacks is
                told, and left out if it is for evaluation.
            purpose: ``training`` has an order in which each dataset has its share.

        Raises:
            DataError: a dataset cannot be read, or lacks the split to train on; names it.
        """
        return self._reader()(split, purpose=purpose)

    def _reader(self) -> SplitReader:
        from contrastive.datasets.mix.reader import reader

        return reader(self)
