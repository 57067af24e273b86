"""The dataset ``acme``. Config only: what reads files is imported in ``build()``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.interface import Dataset

if TYPE_CHECKING:
    from contrastive.interface import Purpose, Samples

__all__ = ["AcmeDataset"]


class AcmeDataset(Dataset):
    """Images and captions of a CSV file with the columns image, text and split."""

    file: Path
    """The CSV file; it names images relative to its own folder."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read the rows of a split; no image is opened.

        Args:
            split: a value of the split column, or several joined by ``+``.
            purpose: both get all captions.

        Raises:
            DataError: the file cannot be read, or has no row of that split.
        """
        from contrastive_acme.table import rows_of

        return rows_of(self.file, split.split("+"))
