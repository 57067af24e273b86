"""Search in an index: by a query, by one of its rows, for near duplicates and for outliers.

Shapes: D wide, k results.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.console import say
from contrastive.errors import DataError
from contrastive.indexes.backends import kind_of
from contrastive.indexes.finder import NEAREST_K
from contrastive.indexes.index import Index
from contrastive.inference.composed_query import asked
from contrastive.inference.hits import Hit, judged_hits
from contrastive.inference.queries import found_by
from contrastive.nn.fingerprint import weights_fingerprint

ENOUGH = 0.95

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.indexes.index_file import Recall
    from contrastive.indexes.segments import Row
    from contrastive.model.model import ContrastiveModel


def search_index(
    model: ContrastiveModel,
    query: Any,
    index: Index | str | Path,
    *,
    find: str | None = None,
    query_modality: str | None = None,
    k: int = 10,
    where: Sequence[str] = (),
    compose: bool = False,
    min_precision: float | None = None,
) -> list[Hit]:
    """Return the k rows of an index that are nearest to a query, as ``search`` does.

    Raises:
        BadSample: the query cannot be read.
        DataError: another model made the index, or it has no rows of what is searched.
    """
    opened = index if isinstance(index, Index) else Index(index)
    check_made_by(opened, model)
    by, query_1D = asked(model, query, query_modality, compose=compose)
    find = find or found_by(by, opened.modalities, [*model.towers])
    found = opened.search(query_1D, find, k=k, where=where)[0]
    if not found:
        tell_of_none(opened, find, where)
    hits = [hit_of(one.row, find, one.similarity) for one in found]
    tell_recall(opened, find)
    if compose or not hits:
        return hits
    return judged_hits(
        model,
        (by, find),
        hits,
        items=opened.rows(find, where=where),
        query_1D=query_1D,
        min_precision=min_precision,
    )


def tell_of_none(index: Index, modality: str, where: Sequence[str]) -> None:
    """Say that conditions leave nothing to search."""
    say(f"{index.folder}: no {modality} meets {' and '.join(where) or 'what is asked'}")


def check_made_by(index: Index, model: ContrastiveModel) -> None:
    """Check that a model made an index.

    Raises:
        DataError: another one did.
    """
    if weights_fingerprint(model) != index.about.model.sha256:
        msg = (
            f"{index.folder}: another model made this index; give that one (--model), or build an "
            "index with this one"
        )
        raise DataError(msg)


def low_recall(index: Index, modality: str) -> Recall | None:
    """Return what a search of a modality finds, where it misses much."""
    recall, kind = index.about.recall.get(modality), kind_of(index.about)
    rows = sum(segment.about.rows for segment in index.opened(modality))
    if not (recall and kind and kind.pays(1, rows, NEAREST_K, recall.effort)):
        return None  # all rows are compared
    return recall if recall.share < ENOUGH else None


def tell_recall(index: Index, modality: str) -> None:
    """Say so where the search of a modality misses much."""
    if recall := low_recall(index, modality):
        say(
            f"{index.folder}: finds {recall.share:.0%} of the ten nearest {modality} rows, as "
            f"{recall.queries} {recall.of} rows say; contrastive index build DATA -o INDEX "
            "--backend exact finds all"
        )


def hit_of(row: Row, modality: str, similarity: float) -> Hit:
    """Return a row of an index as what a search finds."""
    sample = row.sample
    found = str(row.others.get("text", "")) if sample is None else sample
    raw = Path(sample) if sample is not None and modality == "image" else sample
    return Hit(similarity, found, row.source, raw)
