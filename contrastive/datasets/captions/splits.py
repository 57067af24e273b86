"""Splits of captions that are read once, for whichever split is asked for first."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from contrastive.datasets.splits import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contrastive.data.columns import Columns
    from contrastive.datasets import (
        Flickr30k,
        ImageFolder,
        Purpose,
        Table,
        WebDataset,
    )
    from contrastive.datasets.captions.table import Captions


class ReadCaptions(NamedTuple):
    """The rows of all splits."""

    captions: Captions
    origin: Path | str
    """The file, folder or repository that messages name."""
    hashed: bool = False
    """Whether a hash says some of their splits, so that all the usual ones exist."""


class CaptionSplits(Protocol):
    """Reads splits of captions."""

    def __call__(self, split: str, /, *, purpose: Purpose = "evaluation") -> Columns:
        """Return a split."""
        ...


def splits_of(
    config: Flickr30k | ImageFolder | Table | WebDataset, read: Callable[[], ReadCaptions]
) -> CaptionSplits:
    """Return what reads splits; ``read`` is called when the first is asked for, and once."""
    held = cache(read)

    def split_named(split: str, /, *, purpose: Purpose = "evaluation") -> Columns:
        captions, origin, hashed = held()
        return captions.split(
            split,
            origin=origin,
            splits=SPLITS if hashed else (),
            captions_per_image=config.captions_per_image if purpose == "training" else None,
            max_bad=config.max_bad,
        )

    return split_named
