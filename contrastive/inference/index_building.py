"""Build an index and bring it up to date: a content that it has is never encoded again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from contrastive.config.arguments import check_model, count, path_of, strings
from contrastive.config.extras import require
from contrastive.errors import DataError, SpecError
from contrastive.indexes.backends import checked_small
from contrastive.indexes.filters import matching
from contrastive.indexes.index_file import About, DataOf
from contrastive.indexes.named_rows import named_rows
from contrastive.indexes.structures import refresh
from contrastive.indexes.writer import Place, Writer, model_of, writing
from contrastive.inference.embed import rows_to_embed, write_missing
from contrastive.inference.index_rows import IndexChange, bring, tell_of_ids
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.indexes.vector_form import Quantize
    from contrastive.inference.index_encoding import Encode
    from contrastive.model.model import ContrastiveModel


def build_index(
    model: ContrastiveModel,
    samples: Samples,
    folder: str | Path,
    *,
    data: str | DataOf = "data",
    model_folder: str | Path | None = None,
    backend: str | None = None,
    dim: int | None = None,
    quantize: Quantize | None = None,
    cache: FeatureCache | None = None,
    workers: int = 0,
    encode: Encode | None = None,
) -> IndexChange:
    """Make an index of a dataset, or bring the one that is there up to it.

    What has the same content is encoded once, and never again by a later call: an index of data
    that did not change stays as it is, and a build that was interrupted goes on. Samples that
    cannot be read are told and left out.

    Args:
        model: the model.
        samples: a built dataset.
        folder: is made; or holds an index of the same model and data.
        data: what the index calls these data.
        model_folder: where the model is, for a search that is not given one.
        backend: how it is searched: ``exact`` if it is new, or by a graph of near rows (``faiss``)
            or lists of them (``faiss-ivf``), from 10,000 rows on. An index that is there keeps its
            own, if none of these three is given.
        dim: find candidates by so many numbers of each vector alone (Matryoshka).
        quantize: find candidates by small copies of the vectors: ``int8``, a quarter of the size,
            or ``binary``, a 32nd.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.
        encode: what writes the shards of a plan, if not this process.

    Raises:
        DataError: the folder holds something else, or an index of another model or other data.
        SpecError: there is no such backend, or the width does not fit the model.
        MissingExtra: pyarrow is not installed, or faiss for such a backend.

    Example:
        >>> [build_index(model, rows, "built").encoded for _ in range(2)]
        [4, 0]
    """
    check_model(model)
    require("pyarrow.parquet", extra="parquet")
    path, own = path_of("folder", folder), _data_of(data)
    tell_of_ids(samples)
    rows, modalities = rows_to_embed(model, samples)
    sha256 = weights_fingerprint(model)
    small = checked_small(model.spec.embed_dim, backend, dim, quantize)
    new = About(
        model=model_of(sha256, model_folder, path),
        dim=model.spec.embed_dim,
        data=[own],
        segments=[],
    )
    with writing(path, new=new) as writer:
        _check_model(writer, sha256)
        _check_data(writer, own)
        name = writer.about.data[0].name  # photos and ./photos/ are one
        writer.replace_data(0, own.model_copy(update={"name": name}))
        if (backend, dim, quantize) != (None, None, None):
            writer.search_by(backend or "exact", small)
        encode = _encode(encode, model, cache, workers)
        return bring(writer, model, rows, modalities, 0, encode)


def add_to_index(
    model: ContrastiveModel,
    samples: Samples,
    folder: str | Path,
    *,
    data: str | DataOf,
    cache: FeatureCache | None = None,
    workers: int = 0,
    encode: Encode | None = None,
) -> IndexChange:
    """Add other data to an index.

    Args:
        model: the model that made it.
        samples: a built dataset.
        folder: the index.
        data: what the index calls these data; no name that it has.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.
        encode: what writes the shards of a plan, if not this process.

    Raises:
        DataError: there is no such index, it is of another model, or it has data of this name.

    Example:
        >>> change = build_index(model, rows[:1], "grown")
        >>> add_to_index(model, rows, "grown", data="more").encoded  # two it has already
        2
    """
    check_model(model)
    own = _data_of(data)
    tell_of_ids(samples)
    rows, modalities = rows_to_embed(model, samples)
    with writing(path_of("folder", folder)) as writer:
        _check_model(writer, weights_fingerprint(model))
        if any(own.is_same(one) for one in writer.about.data):
            msg = (
                f"{writer.folder}: has {own.name} already; contrastive index update brings it up "
                "to date"
            )
            raise DataError(msg)
        if own.name in [one.name for one in writer.about.data]:  # of another folder
            own = own.model_copy(update={"name": own.name.replace(own.text or "", own.place or "")})
        number = writer.add_data(own)
        encode = _encode(encode, model, cache, workers)
        return bring(writer, model, rows, modalities, number, encode)


def update_index(
    model: ContrastiveModel,
    samples: Samples,
    folder: str | Path,
    *,
    data: str | None = None,
    now: DataOf | None = None,
    cache: FeatureCache | None = None,
    workers: int = 0,
    encode: Encode | None = None,
) -> IndexChange:
    """Bring an index to the state of its data: add what is new, drop what is gone.

    What has changed is new. What was removed by ``remove_from_index`` is new, too, if the data
    still have it.

    Args:
        model: the model that made it.
        samples: the data as they are now.
        folder: the index.
        data: which of its data these are; may be left out if there is one.
        now: what the index is to note of where they are.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.
        encode: what writes the shards of a plan, if not this process.

    Raises:
        DataError: there is no such index, it is of another model, or has no such data.

    Example:
        >>> change = build_index(model, rows, "updated")
        >>> change = update_index(model, rows[:1], "updated")
        >>> change.removed, change.encoded, change.index
        (2, 0, Index('updated': 1 image, 1 text))
    """
    check_model(model)
    tell_of_ids(samples)
    rows, modalities = rows_to_embed(model, samples)
    with writing(path_of("folder", folder)) as writer:
        _check_model(writer, weights_fingerprint(model))
        names = [one.name for one in writer.about.data]
        name = names[0] if data is None and len(names) == 1 else data
        if name not in names:
            which = "say which of its data these are" if name is None else f"has no {name}"
            msg = f"{writer.folder}: {which}: {', '.join(names)}"
            raise DataError(msg)
        number = names.index(name)
        if now:
            writer.replace_data(number, now)
        encode = _encode(encode, model, cache, workers)
        return bring(writer, model, rows, modalities, number, encode)


def remove_from_index(
    folder: str | Path,
    samples: Sequence[str] = (),
    *,
    where: Sequence[str] = (),
) -> IndexChange:
    """Take rows out of an index; no model is needed.

    Args:
        folder: the index.
        samples: paths, texts or sources, such as ``captions.csv:17``, of rows; of each, all rows
            that have it.
        where: instead, conditions such as ``label=dog``: rows that meet all of them.

    Raises:
        DataError: there is no such index; or one of the samples is not in it.
        SpecError: nothing is said, or both are, or a condition fits no column.

    Example:
        >>> change = build_index(model, rows, "shrunk")
        >>> remove_from_index("shrunk", where=["id=0"]).index
        Index('shrunk': 1 image, 1 text)
    """
    left, where = {*strings("samples", samples)}, strings("where", where)
    if not (left or where):
        msg = "say which rows go: paths, texts or sources, or where=['label=dog'] (--where)"
        raise SpecError(msg)
    if left and where:
        msg = "samples and where (--where) are given; take out the one, then the other"
        raise SpecError(msg)
    with writing(path_of("folder", folder)) as writer:
        places: set[Place] = set()
        if where:
            live = [{*segment.live_numbers()} for segment in writer.held]
            for number, mask in enumerate(matching(writer.held, where, str(writer.folder))):
                numbers = {int(row) for row in mask.nonzero()[:, 0]}
                places |= {Place(number, row) for row in live[number] & numbers}
        for number, row, found in named_rows(writer.held, {*left}) if left else ():
            left -= found
            places.add(Place(number, row))
        if left:
            msg = f"{writer.folder}: has no {min(left)}; give a path, a text or a source it has"
            raise DataError(msg)
        writer.delete(places)
        writer.commit()
        refresh(writer)
        return IndexChange(writer.index, 0, len(places), 0, 0)


def _encode(
    given: Encode | None, model: ContrastiveModel, cache: FeatureCache | None, workers: int
) -> Encode:
    """Return what was given, or else what writes shards in this process."""
    workers = count("workers", workers, least=0)
    return given or partial(write_missing, model=model, cache=cache, workers=workers)


def _data_of(data: str | DataOf) -> DataOf:
    """Describe data.

    Raises:
        SpecError: they are given no name.
    """
    given: Any = data
    if isinstance(given, DataOf):
        return given
    if not isinstance(given, str) or not given.strip():
        msg = f"data: {given!r} was given; give a name"
        raise SpecError(msg)
    return DataOf(name=given)


def _check_data(writer: Writer, own: DataOf) -> None:
    """Insist on an index of these data alone; others of the name may be meant if those are gone.

    Raises:
        DataError: it has others.
    """
    held = writer.about.data
    if len(held) == 1 and (
        own.is_same(held[0]) or (own.name == held[0].name and held[0].is_gone(writer.folder))
    ):
        return
    names = ", ".join(one.name for one in held) or "no data"
    if own.name in [one.name for one in held]:
        names = ", ".join(one.place or one.name for one in held)
    remedy = f"to add {own.name}, contrastive index add; or give another folder"
    if any(own.is_same(one) for one in held):
        remedy = f"to bring all of them up to date, contrastive index update {writer.folder}"
    elif len(held) == 1 and held[0].is_gone(writer.folder):
        remedy = (
            f"if that is now {own.name}, contrastive index update {writer.folder} --data "
            f"{own.text}; {remedy}"
        )
    msg = f"{writer.folder}: is an index of {names}; {remedy}"
    raise DataError(msg)


def _check_model(writer: Writer, sha256: str) -> None:
    if writer.about.model.sha256 != sha256:
        msg = f"{writer.folder}: another model made this index; give that one, or another folder"
        raise DataError(msg)
