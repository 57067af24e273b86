"""Search: words to pictures and pictures to texts, by exact nearest neighbours.

Shapes: Q queries, N items, D the shared width, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.errors import DataError
from contrastive.evaluate import embed_column
from contrastive.faults import Faults
from contrastive.images import SUFFIXES, StoredImage
from contrastive.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contrastive.cache import FeatureCache
    from contrastive.model import ContrastiveModel

ITEMS = 65_536  # scored at a time: with 1,000 queries, 256 MB


def top_k(queries_QD: Tensor, items_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities and indices ``[Q, min(k, N)]`` of the best items, best first.

    Exact, without the whole matrix. Both must be L2-normalised. Equal scores come in the order
    of the items.
    """
    scores = queries_QD.new_empty(len(queries_QD), 0)
    indices = torch.empty(len(queries_QD), 0, dtype=torch.long, device=queries_QD.device)
    for start in range(0, len(items_ND), ITEMS):
        block = queries_QD @ items_ND[start : start + ITEMS].T
        places = torch.arange(start, start + block.shape[1], device=block.device)
        scores = torch.cat([scores, block], 1)
        indices = torch.cat([indices, places.expand_as(block)], 1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
    return scores, indices


@dataclass(frozen=True)
class Candidates:
    """What is searched: rows of one modality, for a query of another."""

    query_modality: str
    modality: str
    rows: Sequence[dict[str, Any]]


def candidates(
    query: str,
    *,
    images: Path | None = None,
    texts: Path | None = None,
    data: Callable[[], Sequence[dict[str, Any]]],
) -> Candidates:
    """Decide what a query is, and what it is searched in.

    A query that names a picture searches texts (a file's lines, or a dataset's captions); words
    search pictures (a folder's, or a dataset's).

    Raises:
        DataError: the picture, the folder or the file is not there, or holds nothing; or the query
            is of the kind that would be found.
    """
    if Path(query).suffix.lower() in SUFFIXES:
        if not Path(query).is_file():
            msg = f"{query}: no such picture"
            raise DataError(msg)
        if images:
            msg = f"{query}: a picture finds texts; give --texts, or words to search {images}"
            raise DataError(msg)
        return Candidates("image", "text", lines_of(texts) if texts else data())
    if texts:
        msg = f"{query!r}: words find pictures; give --images, or a picture to search {texts}"
        raise DataError(msg)
    return Candidates("text", "image", pictures_in(images) if images else data())


def find(
    model: ContrastiveModel,
    query: str,
    among: Candidates,
    *,
    k: int = 10,
    cache: FeatureCache | None = None,
) -> list[dict[str, Any]]:
    """Return the k best candidates: similarity, what was found, and its place.

    Candidates that cannot be read are reported and left out.

    Raises:
        BadSample: the query cannot be read.
        DataError: none of the candidates can be read.
    """
    faults = Faults(tell=say)
    query_1D = model.embed(among.query_modality, [query], cache=cache)
    column = embed_column(model, among.rows, among.modality, faults, cache=cache)
    if not column.rows:
        msg = f"nothing to search: none of {len(among.rows)} {among.modality} samples can be read"
        raise DataError(msg)
    scores, indices = top_k(query_1D, column.embeddings_QD, k)
    hits: list[dict[str, Any]] = []
    for score, index in zip(scores[0], indices[0], strict=True):
        row = among.rows[column.rows[int(index)]]
        sample = row[among.modality]
        # a picture without a name is best described by its caption
        named = isinstance(sample, (str, Path, StoredImage))
        found = str(sample) if named else str(row.get("text", ""))
        hits.append(
            {"similarity": score.item(), "found": found, "source": str(row.get("source", ""))}
        )
    return hits


def pictures_in(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each picture in a folder and the folders in it, sorted by path.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder"
        raise DataError(msg)
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        msg = f"{folder}: no pictures here ({', '.join(SUFFIXES)})"
        raise DataError(msg)
    return [{"image": path, "id": i, "source": ""} for i, path in enumerate(found)]


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return a row for each line of a file that is not blank.

    Raises:
        DataError: the file cannot be read, or has no such line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DataError(msg) from None
    rows = [
        {"text": line.strip(), "id": i, "source": f"{file.name}:{i + 1}"}
        for i, line in enumerate(lines)
        if line.strip()
    ]
    if not rows:
        msg = f"{file}: no lines to search"
        raise DataError(msg)
    return rows
