"""Refuse to measure a model on what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.data.content_hash import short_key
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.model.model import ContrastiveModel

UNHASHED = ("text",)  # the same words may well stand in two splits; the same image may not


def check_held_out(model: ContrastiveModel, rows: Sequence[dict[str, Any]], split: str) -> None:
    """Refuse to measure a model on nothing, or on what it was trained on.

    Raises:
        DataError: the split is empty, or shares samples with training; names the first.
    """
    name = f"split {split!r}" if split else "this data"
    if not rows:
        msg = f"{name} is empty; there is nothing to measure"
        raise DataError(msg)
    for modality, seen in model.seen.items():
        known = set(cast("list[int]", seen.tolist()))
        hits = [i for i, row in enumerate(rows) if short_key(row[modality], modality) in known]
        if hits:
            source = rows[hits[0]].get("source", f"row {hits[0]}")
            msg = (
                f"{name} shares {len(hits)} of {len(rows)} {modality} rows with the "
                f"training split, the first is {source}; measure on a split that it has not seen"
            )
            raise DataError(msg)


def seen_samples(rows: Sequence[dict[str, Any]], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Return hashes of the samples of each modality but text, sorted, ``[n]`` int64."""
    return {
        modality: torch.tensor(sorted({short_key(row[modality], modality) for row in rows} - {0}))
        for modality in modalities
        if modality not in UNHASHED
    }
