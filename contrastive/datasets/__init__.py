"""Datasets: the interface, the registry, and what comes built in.

This module is the menu. It does not import torch.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Protocol

from contrastive.config import Config
from contrastive.registry import Registry

Sample = dict[str, Any]
"""One row: a raw sample per modality, its group id, and where it came from.

``{"image": path | bytes | PIL image, "text": str, "id": int, "source": "captions.csv:17"}``;
``"label"`` names the class of the row where there are classes. Decoding belongs to the encoder.
"""

Purpose = Literal["training", "evaluation"]


class Samples(Protocol):
    """A built dataset: rows by index, cheap to read.

    Two attributes are optional: ``classes`` (names of the classes that the rows' ``"label"``
    takes) and ``faults`` (a ``contrastive.faults.Faults`` with the rows that were left out).
    """

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """Return one row."""
        ...


class Dataset(Config):
    """Paired samples of two or more modalities, in splits."""

    kind: ClassVar[str] = "dataset"

    @abstractmethod
    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read one split.

        Args:
            split: ``train``, ``val``, ``test``, or several joined by ``+``.
            purpose: ``training`` may thin out captions; ``evaluation`` gives all of them.

        Raises:
            DataError: the files are not there or too much of them is bad.
        """


datasets = Registry(Dataset, group="contrastive.datasets")
