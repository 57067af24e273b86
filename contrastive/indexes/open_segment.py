"""A segment that is searched.

Shapes: M rows, D wide.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from contrastive.errors import DataError
from contrastive.indexes.segments import TABLE, read_table, read_vectors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from contrastive.indexes.index_file import Segment


class OpenSegment:
    """A segment with its vectors mapped; its table is read when it is needed."""

    def __init__(self, folder: Path, about: Segment, dim: int) -> None:
        """Open the files.

        Raises:
            DataError: they are damaged.
            FileNotFoundError: they are not there.
        """
        self.folder, self.about = folder, about
        self.vectors_MD = read_vectors(folder, about, dim)
        if not (folder / f"{about.stem}{TABLE}").is_file():
            raise FileNotFoundError(folder / f"{about.stem}{TABLE}")

    @cached_property
    def table(self) -> Any:
        """The table, of pyarrow."""
        try:
            return read_table(self.folder, self.about)
        except FileNotFoundError as error:
            msg = f"{error.filename}: is gone: the index has changed meanwhile; open it again"
            raise DataError(msg) from None

    @cached_property
    def live(self) -> Tensor | None:
        """Which rows are not deleted: ``[M]`` booleans; None if all are live."""
        if not self.about.deleted:
            return None
        mask = torch.ones(self.about.rows, dtype=torch.bool)
        mask[self.about.deleted] = False
        return mask

    def live_numbers(self) -> list[int]:
        """Return the numbers of the rows that are not deleted."""
        gone = {*self.about.deleted}
        return [row for row in range(self.about.rows) if row not in gone]
