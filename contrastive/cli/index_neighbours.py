"""What ``contrastive search`` finds in an index without a model: rows that are near or far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.cli.output import show
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.indexes.index import Index


def show_neighbours(
    folder: Path,
    name: str | None,
    least: float | None,
    *,
    find: str | None,
    where: Sequence[str],
    k: int,
    as_json: bool,
) -> None:
    """Show rows like the one of a name; else pairs as near as ``least``; else outliers."""
    from contrastive.indexes.index import Index
    from contrastive.inference.index_search import hit_of, tell_of_none, tell_recall
    from contrastive.reporting.tables import hits_table, neighbours_table

    index = Index(folder)
    if name is not None:
        modality, found = index.like(name, modality=find, k=k, where=where)
        tell_recall(index, modality)
    elif least is None:
        modality = find or _only(index)
        found = index.outliers(modality, k=k, where=where)
    else:
        modality = find or _only(index)
        pairs = [
            (hit_of(a, modality, score), hit_of(b, modality, score))
            for score, a, b in index.duplicates(modality, least=least, k=k, where=where)
        ]
        shown: list[Any] = [
            a.as_dict() | {"other": b.found, "other_source": b.source} for a, b in pairs
        ]
        none = f"no pair has a cosine of {least:g}"
        show(shown, as_json, neighbours_table(pairs) if pairs else none)
        return
    if not found and where:
        tell_of_none(index, modality, where)
    hits = [hit_of(one.row, modality, one.similarity) for one in found]
    show([hit.as_dict() for hit in hits], as_json, hits_table(hits))


def _only(index: Index) -> str:
    """Return the modality of an index, the images if it has several.

    Raises:
        DataError: it has several others, or none.
    """
    names = index.modalities
    if len(names) == 1 or "image" in names:
        return "image" if "image" in names else names[0]
    msg = f"{index.folder}: has {', '.join(names) or 'no rows'}; choose a modality by --find"
    raise DataError(msg)
