"""Search: words to images, images to texts, any modality to any, by exact nearest neighbours.

Shapes: Q queries, N items, D the shared width, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.images import SUFFIXES, StoredImage, images_below
from contrastive.data.samples import check_modalities
from contrastive.errors import DataError
from contrastive.inference.embed_dataset import embed_modality
from contrastive.inference.nearest import top_k

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel


@dataclass(frozen=True)
class Candidates:
    """What is searched: rows of one modality, for a query of another or the same."""

    query_modality: str
    modality: str
    rows: Sequence[dict[str, Any]]


def candidates(
    query: str,
    *,
    images: Path | None = None,
    texts: Path | None = None,
    data: Callable[[], Sequence[dict[str, Any]]],
    modalities: Sequence[str] = ("image", "text"),
    by: str | None = None,
    find: str | None = None,
) -> Candidates:
    """Decide what a query is, and what it is searched in.

    Args:
        query: words, or the path of an image or of another file.
        images: a folder of images to search.
        texts: a file to search, a text a line.
        data: gives the rows of a dataset, which are searched if neither is given.
        modalities: those of the model. An image searches texts, words search images, and where
            there are none, the first modality of another kind.
        by: the query's modality, if it is not to be guessed.
        find: the modality to search, if it is another; it may be the query's own.

    Raises:
        DataError: the image, the folder or the file is not there, or holds nothing; or it is not
            of the modality that is searched.
    """
    by = by or _modality_of(query, modalities)
    if by == "image" and not Path(query).is_file():
        msg = f"{query}: no such image"
        raise DataError(msg)
    usual = "text" if by == "image" else "image"
    others = [modality for modality in modalities if modality != by]
    find = find or (usual if usual in modalities else (others or [*modalities])[0])
    for given, modality in ((images, "image"), (texts, "text")):
        if given and find != modality:
            msg = f"{query!r}: {by} finds {find}; add --find {modality} to search {given}"
            raise DataError(msg)
    rows = images_in(images) if images else lines_of(texts) if texts else data()
    check_modalities(rows, [find])
    return Candidates(by, find, rows)


def _modality_of(query: str, modalities: Sequence[str]) -> str:
    """Guess what a query is: an image by its suffix, another file if there is one, else words."""
    files = [modality for modality in modalities if modality not in ("image", "text")]
    if Path(query).suffix.lower() in SUFFIXES:
        return "image"
    return files[0] if files and Path(query).is_file() else "text"


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
    bad_rows = BadRows(on_report=say)
    query_1D = model.embed(among.query_modality, [query], cache=cache)
    column = embed_modality(model, among.rows, among.modality, bad_rows, cache=cache)
    if not column.rows:
        msg = f"nothing to search: none of {len(among.rows)} {among.modality} samples can be read"
        raise DataError(msg)
    scores, indices = top_k(query_1D, column.embeddings_QD, k)
    hits: list[dict[str, Any]] = []
    for score, index in zip(scores[0], indices[0], strict=True):
        row = among.rows[column.rows[int(index)]]
        sample = row[among.modality]
        # an image without a name is best described by its caption
        named = isinstance(sample, (str, Path, StoredImage))
        found = str(sample) if named else str(row.get("text", ""))
        hits.append(
            {"similarity": score.item(), "found": found, "source": str(row.get("source", ""))}
        )
    return hits


def images_in(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each image in a folder and the folders in it, sorted by path.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    return [{"image": path, "id": i, "source": ""} for i, path in enumerate(images_below(folder))]


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
