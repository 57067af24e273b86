"""Search: words to images, images to texts, any modality to any, by exact nearest neighbours.

Shapes: Q queries, N items, D the shared width, k results.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.arguments import check_model, count, is_path
from contrastive.config.base import Config
from contrastive.console import say
from contrastive.data.bad_rows import BadRows, bad_rows_of
from contrastive.data.images import StoredImage
from contrastive.data.sample_lists import sample_list
from contrastive.data.samples import check_modalities, rows_of
from contrastive.datasets.single_modality import images_in, lines_of
from contrastive.errors import DataError, SpecError, a_type
from contrastive.inference.composed_query import asked
from contrastive.inference.embed_distinct import embed_modality
from contrastive.inference.hits import Hit, judged_hits
from contrastive.inference.index_search import search_index
from contrastive.inference.nearest import top_k
from contrastive.inference.queries import found_by
from contrastive.model.scores import checked_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.indexes.index import Index
    from contrastive.model.model import ContrastiveModel


def search(
    model: ContrastiveModel,
    query: Any,
    *,
    images: Any = None,
    texts: Any = None,
    samples: Samples | Callable[[], Samples] | None = None,
    index: Index | str | Path | None = None,
    where: Sequence[str] = (),
    find: str | None = None,
    query_modality: str | None = None,
    compose: bool = False,
    k: int = 10,
    min_precision: float | None = None,
    cache: FeatureCache | None = None,
) -> list[Hit]:
    """Return the k nearest of the images, texts or samples that are given, best first.

    Samples that cannot be read are reported and left out.

    Args:
        model: the model.
        query: words, the path of an image or of another file, or one raw sample.
        images: a folder, or images in any form that ``ContrastiveModel.embed`` takes.
        texts: a file with a text a line, or texts in any such form.
        samples: a built dataset, or what builds it; searched if neither of the others is given.
        index: an index that ``build_index`` wrote with this model, or its folder, in place of all
            these; its samples are not read.
        where: conditions on the rows of the index, such as ``label=dog``.
        find: the modality to search, if the query does not decide it; it may be the query's own.
            An image searches texts, words search images; where there are none, the first other
            modality of the model.
        query_modality: of the query, if it is not to be guessed.
        compose: whether the query is made of several: ``"red car" + dog.jpg - 0.5*night``.
        k: how many hits; all, if there are fewer.
        min_precision: return only hits of which so many are right, as a share; none may be left,
            which is told. The model has to be calibrated.
        cache: keeps the features that frozen encoders have of what is searched.

    Raises:
        BadSample: the query cannot be read.
        SpecError: a precision is asked for that the model is not calibrated for, or of a composed
            query.
        DataError: the image, the folder or the file is not there, or holds nothing that can be
            read; or it is not of the modality that is searched; or another model made the index.

    Example:
        >>> hits = search(model, "a red square", images="photos", k=3)
        >>> sorted(Path(hit.found).name for hit in hits)
        ['blue.png', 'green.png', 'red.png']
    """
    check_model(model)
    k, modalities = count("k", k), list(model.towers)
    if compose and min_precision is not None:
        msg = "min_precision: composed queries are not what is calibrated; leave one of them out"
        raise SpecError(msg)
    min_precision = checked_precision(model, min_precision)
    if index is not None:
        if images is not None or texts is not None or samples is not None:
            msg = "an index and what else to search are given; give one of them"
            raise DataError(msg)
        about: dict[str, Any] = {"find": find, "query_modality": query_modality, "k": k}
        about |= {"where": where, "compose": compose, "min_precision": min_precision}
        return search_index(model, query, index, **about)
    if where:
        msg = "where: conditions need an index; give index= (--index)"
        raise DataError(msg)
    by, query_1D = asked(model, query, query_modality, compose=compose)
    find = find or found_by(by, modalities, modalities)
    model.tower(find)  # says which there are
    if images is not None and texts is not None:
        msg = "images and texts are given; search one of them, then the other"
        raise DataError(msg)
    for given, modality in ((images, "image"), (texts, "text")):
        if given is not None and find != modality:
            msg = (
                f"{_named(query)}: {by} finds {find}; to search {_named(given)}, give "
                f"find={modality!r} (--find {modality})"
            )
            raise DataError(msg)
    rows = _rows(images, texts, samples)
    if not rows:
        msg = f"nothing to search: there are no {find} samples"
        raise DataError(msg)
    own = f", or {find}s ({find}s=, --{find}s)" if find in ("image", "text") else ""
    check_modalities(rows, [find], remedy=f"give other data{own}")
    bad_rows = BadRows(on_report=say)
    column = embed_modality(model, rows, find, bad_rows, cache=cache)
    if not column.rows:
        msg = f"nothing to search: none of {len(rows)} {find} samples can be read"
        raise DataError(msg)
    scores, indices = top_k(query_1D, column.embeddings_QD, k)
    hits = [
        _hit(rows[column.rows[int(index)]], find, score.item())
        for score, index in zip(scores[0], indices[0], strict=True)
    ]
    if compose:
        return hits
    return judged_hits(
        model,
        (by, find),
        hits,
        items=len(column.rows),
        query_1D=query_1D,
        min_precision=min_precision,
    )


def _rows(
    images: Any, texts: Any, samples: Samples | Callable[[], Samples] | None
) -> Sequence[dict[str, Any]]:
    if images is not None:
        is_folder = is_path(images) and not Path(images).is_file()
        return images_in(Path(images)) if is_folder else _listed(images, "image")
    if texts is not None:
        is_file = is_path(texts)
        return lines_of(Path(texts)) if is_file else _listed(texts, "text")
    if samples is None:
        msg = "nothing to search: give images, texts or samples"
        raise DataError(msg)
    if callable(samples) and not isinstance(samples, (Config, type)):
        samples = samples()
    known = bad_rows_of(samples)
    for line in known.lines:  # found while the annotations were read
        say(line)
    return rows_of(cast("Samples", samples), needs_ids=False)


def _listed(given: Any, modality: str) -> list[dict[str, Any]]:
    samples = sample_list(given, modality)
    return [{modality: sample, "id": i, "source": f"{i}"} for i, sample in enumerate(samples)]


def _hit(row: dict[str, Any], modality: str, similarity: float) -> Hit:
    sample = row[modality]
    # an image without a name is best described by its caption
    named = isinstance(sample, (str, Path, StoredImage))
    found = str(sample) if named else str(row.get("text", ""))
    return Hit(similarity, found, str(row.get("source", "")), sample)


def _named(given: Any) -> str:
    return str(given) if is_path(given) else a_type(given)
