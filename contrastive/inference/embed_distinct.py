"""Embed each distinct sample of a dataset once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.data.column_kinds import Coded
from contrastive.data.columns import Values, chosen, ids_of, values_of
from contrastive.data.content_hash import sample_key
from contrastive.data.images import StoredImage
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        modality,
        chosen(values_of(rows, modality), first),
        cache=cache,
        workers=workers,
        on_bad=note,
    )
    good = [i for i in range(len(first)) if i not in bad]
    ids = torch.tensor(ids_of(rows)[[first[i] for i in good]].tolist(), dtype=torch.int64)
    return EmbeddedModality(embeddings[good], ids, [first[i] for i in good])


def distinct_rows(rows: Sequence[dict[str, Any]], modality: str) -> list[list[int]]:
    """Return the rows in which each distinct sample of each group stands."""
    distinct: dict[tuple[int, Any], list[int]] = {}
    for i, key in enumerate(zip(ids_of(rows).tolist(), _names(rows, modality), strict=True)):
        distinct.setdefault(key, []).append(i)
    return list(distinct.values())


def _names(rows: Sequence[dict[str, Any]], modality: str) -> Iterator[Any]:
    """Yield what is equal for equal samples."""
    samples = values_of(rows, modality)
    if isinstance(samples, Values) and isinstance(samples.column, Coded):
        yield from samples.distinct()[1].tolist()
        return
    for i, sample in enumerate(samples):
        by_value = isinstance(sample, (str, bytes, Path, StoredImage))
        try:
            yield sample if by_value else sample_key(sample, modality)
        except BadSample:  # which is told when it is encoded
            yield i
