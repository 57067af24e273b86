"""Search in an index: by a query, by one of its rows, for near duplicates and for outliers.

Shapes: D wide, k results.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.console import say
from contrastive.errors import DataError
from contrastive.indexes.index import Index
from contrastive.inference.composed_query import asked
from contrastive.inference.hits import Hit, judged_hits
from contrastive.inference.queries import found_by
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    if weights_fingerprint(model) != opened.about.model.sha256:
        msg = (
            f"{opened.folder}: another model made this index; give that one (--model), or build an "
            "index with this one"
        )
        raise DataError(msg)
    by, query_1D = asked(model, query, query_modality, compose=compose)
    find = find or found_by(by, opened.modalities, [*model.towers])
    found = opened.search(query_1D, find, k=k, where=where)[0]
    hits = [hit_of(one.row, find, one.similarity) for one in found]
    if not hits:
        say(f"no match: no {find} row of {opened.folder} meets {' and '.join(where)}")
    return judged_hits(
        model,
        (by, find),
        hits,
        items=opened.rows(find, where if model.calibration else ()),
        query_1D=query_1D,
        min_precision=min_precision,
    )


def hit_of(row: Row, modality: str, similarity: float) -> Hit:
    """Return a row of an index as what a search finds."""
    sample = row.sample
    found = str(row.others.get("text", "")) if sample is None else sample
    raw = Path(sample) if sample is not None and modality == "image" else sample
    return Hit(similarity, found, row.source, raw)
