"""What retrieval loses where embeddings are stored in a smaller form."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import torch

from contrastive.data.bad_rows import BadRows
from contrastive.data.samples import rows_of
from contrastive.evaluation.retrieval import recall
from contrastive.inference.embed_distinct import embed_modality

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.indexes.vector_form import Form
    from contrastive.model.model import ContrastiveModel

K = 10
MEASURED = 2000  # rows, from the first on


@dataclass(frozen=True)
class StoredRecall:
    """Recall at k of one direction, with embeddings as they are and as they are stored."""

    query: str
    target: str
    k: int
    whole: float
    stored: float
    queries: int

    def __str__(self) -> str:
        shares = f"{self.whole:.1%} whole, {self.stored:.1%} as stored"
        return f"{self.query} to {self.target} R@{self.k}: {shares} ({self.queries} queries)"


def recall_as_stored(
    model: ContrastiveModel, samples: Samples, form: Form, *, cache: FeatureCache | None = None
) -> list[StoredRecall]:
    """Return both recalls of each pair of modalities that the first rows have."""
    rows = rows_of(samples, needs_ids=False)[:MEASURED]
    sides = {
        modality: embed_modality(model, rows, modality, BadRows(), cache=cache)
        for modality in model.towers
        if rows and all(modality in row for row in rows)
    }
    found: list[StoredRecall] = []
    for (query, a), (target, b) in permutations(sides.items(), 2):
        if not torch.isin(a.ids_Q, b.ids_Q).any():
            continue
        whole = recall(a.embeddings_QD, b.embeddings_QD, a.ids_Q, b.ids_Q, ks=[K])
        a_QD, b_QD = (form.restored(form.stored(side.embeddings_QD)) for side in (a, b))
        stored = recall(a_QD, b_QD, a.ids_Q, b.ids_Q, ks=[K])
        values = whole.recall[K].value, stored.recall[K].value
        found.append(StoredRecall(query, target, K, *values, whole.queries))
    return found
