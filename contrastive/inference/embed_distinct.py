"""Embed each distinct sample of a dataset once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contrastive.data.columns import chosen, ids_of, values_of
from contrastive.data.content_hash import sample_key
from contrastive.data.equal_values import Distinct, distinct, value_codes
from contrastive.data.images import StoredImage
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

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
    found = distinct_rows(rows, modality)
    first: list[int] = found.first_Q.tolist()
    times: list[int] = np.bincount(found.which_N).tolist()
    bad: set[int] = set()

    def note(index: int, problem: str) -> None:
        bad.add(index)
        source = str(rows[first[index]].get("source", ""))
        bad_rows.report(source, problem, rows=times[index])

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


def distinct_rows(rows: Sequence[dict[str, Any]], modality: str) -> Distinct:
    """Tell rows apart by their samples and their groups."""

    def name(sample: Any) -> Hashable:
        if isinstance(sample, (str, bytes, Path, StoredImage)):
            return sample
        try:
            return sample_key(sample, modality)
        except BadSample:  # which is told when it is encoded
            return object()

    return distinct(ids_of(rows), value_codes(rows, modality, name))
