"""Embed each distinct sample of a dataset once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.data.content_hash import sample_key
from contrastive.data.images import StoredImage
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.bad_rows import BadRows
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel


@dataclass(frozen=True)
class EmbeddedModality:
    """The distinct samples of one modality, embedded."""

    embeddings_QD: Tensor
    ids_Q: Tensor
    rows: list[int]
    """The first row of the dataset in which each stands."""


def embed_modality(
    model: ContrastiveModel,
    rows: Sequence[dict[str, Any]],
    modality: str,
    bad_rows: BadRows,
    *,
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> EmbeddedModality:
    """Embed each distinct sample of a modality once: an image with five captions is one image."""
    indices = distinct_rows(rows, modality)
    first = [rows_of_it[0] for rows_of_it in indices]
    bad: set[int] = set()

    def note(index: int, problem: str) -> None:
        bad.add(index)
        source = str(rows[first[index]].get("source", ""))
        bad_rows.report(source, problem, rows=len(indices[index]))

    embeddings = model.embed(
        modality, [rows[i][modality] for i in first], cache=cache, workers=workers, on_bad=note
    )
    good = [i for i in range(len(first)) if i not in bad]
    ids = torch.tensor([int(rows[first[i]]["id"]) for i in good])
    return EmbeddedModality(embeddings[good], ids, [first[i] for i in good])


def distinct_rows(rows: Sequence[dict[str, Any]], modality: str) -> list[list[int]]:
    """Return the rows in which each distinct sample of each group stands."""
    distinct: dict[tuple[int, Any], list[int]] = {}
    for i, row in enumerate(rows):
        sample = row[modality]
        by_value = isinstance(sample, (str, bytes, Path, StoredImage))
        try:
            name = sample if by_value else sample_key(sample, modality)
        except BadSample:  # which is told when it is encoded
            name = i
        distinct.setdefault((int(row["id"]), name), []).append(i)
    return list(distinct.values())
