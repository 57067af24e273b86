"""What the verbs about an index share: its model, and the data that it was built from."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.cli.context import SPECS, Context
from contrastive.console import say
from contrastive.errors import DataError, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.data.samples import Samples
    from contrastive.datasets import Dataset
    from contrastive.indexes.index import Index
    from contrastive.indexes.index_file import DataOf
    from contrastive.spec import RunSpec


def index_context(index: Index, model: Path | None, **about: Any) -> Context:
    """Return the context of the model that made an index, unless another is named.

    Raises:
        DataError: nobody knows where it is.
    """
    if model is None and not os.environ.get("CONTRASTIVE_MODEL"):
        model = _model_place(index)
        say(f"model: {model}")
    return Context(model, **about)


def _model_place(index: Index) -> Path:
    from contrastive.pretrained import is_pretrained

    known = index.about.model
    places = [index.folder / known.beside] if known.beside else []
    if known.place:
        places.append(Path(known.place))
    for place in places:
        if place.exists() or is_pretrained(str(place)):
            return Path(os.path.normpath(place)) if place.exists() else place
    where = f"its model is no longer at {known.place}" if known.place else "names no model"
    msg = f"{index.folder}: {where}; give it by --model FOLDER"
    raise DataError(msg)


def place_of(context: Context) -> Path | str:
    """Return where the model is, as an index notes it."""
    return str(context.folder) if context.saved is None else context.folder


@dataclass(frozen=True)
class IndexedData:
    """Data for an index."""

    about: DataOf
    """How the index describes them."""
    read: Callable[[], Samples]
    workers: int
    """Processes that decode samples."""


def given_data(context: Context, data: str, split: str | None, index: Path) -> IndexedData:
    """Return the data of DATA: of a spec the final split, as with ``embed``; of others, all."""
    from contrastive.indexes.index_file import DataOf
    from contrastive.model.local_paths import data_paths, from_folder

    run = context.run(data, remedy="DATA")
    if split is None and "=" not in data and Path(data).suffix in SPECS:
        split = run.evaluation.final_split
    paths = data_paths(run.data)
    about = DataOf(
        name=f"{data} ({split})" if split else data,
        text=data,
        split=split,
        paths=paths,
        paths_beside=from_folder(index, paths),
    )
    if "=" not in data and Path(data).exists():
        about = about.model_copy(update=_place(data, index))
    return _indexed(context, run, about)


def _place(data: str, index: Path) -> dict[str, Any]:
    """Return where a file or a folder is, as an index notes it."""
    from contrastive.model.local_paths import from_folder

    place = os.path.abspath(data)  # noqa: PTH100  (without .. in it)
    return {"place": place, "beside": from_folder(index, {"": place}).get("")}


def known_data(
    context: Context, about: DataOf, index: Path, *, trusted: bool = False
) -> IndexedData:
    """Return the data that an index names: what the file of an index says is not trusted.

    They are read where they were, or beside the index as they were, and not from what has the same
    name in another working folder.

    Raises:
        DataError: it names none, or they are gone.
    """
    from contrastive.config.registry import names_only
    from contrastive.model.local_paths import data_found_again, first_place, places_of

    if about.text is None:
        msg = f"the index does not say where {about.name!r} is; give it by --data"
        raise DataError(msg)
    text = about.text
    if about.place:
        beside = {"": about.beside} if about.beside else {}
        text = str(first_place(places_of(index, {"": about.place}, beside)[""], text) or text)
        if not Path(text).exists():
            msg = f"{index}: {about.name} is no longer at {about.place}; give it by --data"
            raise DataError(msg)
        about = about.model_copy(update=_place(text, index))
    with nullcontext() if trusted else names_only():
        run = context.run(text, remedy="--data")
        places = places_of(index, about.paths, about.paths_beside)
        plain = run.data.model_dump(mode="json")
        if (found := data_found_again(plain, places)) != plain:
            found.pop("type")
            run = run.model_copy(update={"data": type(run.data).model_validate(found)})
        return _indexed(context, run, about)


def _indexed(context: Context, run: RunSpec, about: DataOf) -> IndexedData:
    from contrastive.data.worker_processes import worker_count

    read = partial(_all_splits, run.data)
    if about.split is not None:
        read = partial(context.build, run, about.split, remedy="DATA")
    read = partial(_with_columns, run.data, read, [*context.spec.towers])
    return IndexedData(about, read, worker_count(run.training.workers))


def _with_columns(data: Dataset, read: Callable[[], Samples], modalities: list[str]) -> Samples:
    """Return rows with all columns of their tables, for conditions."""
    from contrastive.datasets import ImageFolder, Table
    from contrastive.datasets.further_columns import with_further_columns

    rows = read()
    if isinstance(data, ImageFolder):
        from contrastive.datasets import image_folder

        return with_further_columns(rows, image_folder.further_columns(data), modalities)
    if isinstance(data, Table):
        from contrastive.datasets.tables import table

        return with_further_columns(rows, table.further_columns(data), modalities)
    return rows


def _all_splits(data: Dataset) -> Samples:
    """Return all rows of data, of whichever split."""
    from contrastive.datasets.built_split import split_reader
    from contrastive.datasets.splits import SPLITS

    read = split_reader(data)
    try:
        return read("+".join(SPLITS))
    except UnknownSplit as error:
        if not error.known:
            raise
        return read("+".join(error.known))
