"""A model that is served, with the index of what it searches."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.data.images import open_image
from contrastive.errors import BadSample
from contrastive.serving.problems import Problem

if TYPE_CHECKING:
    from contrastive.indexes.index import Index
    from contrastive.model.model import ContrastiveModel
    from contrastive.serving.batches import Batches

SMALL = 384  # pixels of the longer side of a copy


@dataclass(frozen=True)
class Served:
    """One model."""

    name: str
    model: ContrastiveModel
    index: Index | None
    batches: Batches

    @cached_property
    def version(self) -> str:
        """What the addresses of an index's images have, so that a later index has others."""
        about = self.index.about.model_dump_json() if self.index else ""
        return hashlib.sha256(about.encode()).hexdigest()[:12]

    def indexed(self) -> Index:
        """Return the index.

        Raises:
            Problem: there is none.
        """
        if self.index is None:
            message = (
                f"{self.name}: is a model without an index; serve one: contrastive serve INDEX"
            )
            raise Problem(404, message, code="no_index")
        return self.index

    def small_copy(self, modality: str, number: int) -> bytes:
        """Return a JPEG of an image of the index. Its file is decoded: no other file is shown.

        Raises:
            Problem: there is no such row, or it has no image that can be read.
        """
        index = self.indexed()
        segments = index.opened(modality)
        rows = index.row_at(segments, [number]) if number >= 0 else []
        sample = rows[0][1].sample if rows else None
        if sample is None:
            raise Problem(404, f"{self.name}: no {modality} {number} with a file", code="no_row")
        try:
            image = open_image(Path(sample))
        except BadSample as error:
            raise Problem(404, f"{self.name}: {error}", code="no_image") from None
        image.thumbnail((SMALL, SMALL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()
