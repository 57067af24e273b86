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


def given_data(context: Context, data: str, split: str | None) -> IndexedData:
    """Return the data of DATA: of a spec the final split, as with ``embed``; of others, all."""
    from contrastive.data.worker_processes import worker_count
    from contrastive.indexes.index_file import DataOf

    run = context.run(data, remedy="DATA")
    if split is None and "=" not in data and Path(data).suffix in SPECS:
        split = run.evaluation.final_split
    place = str(Path(data).absolute()) if "=" not in data and Path(data).exists() else None
    name = f"{data} ({split})" if split else data
    about = DataOf(name=name, text=data, place=place, split=split)
    read = partial(_all_splits, run.data)
    if split is not None:
        read = partial(context.build, run, split, remedy="DATA")
    return IndexedData(about, read, worker_count(run.training.workers))


def known_data(context: Context, about: DataOf, *, trusted: bool) -> IndexedData:
    """Return the data that an index names: what the file of an index says is not trusted.

    Raises:
        DataError: it names none.
    """
    from contrastive.config.registry import names_only

    if about.text is None:
        msg = f"the index does not say where {about.name!r} is; give it by --data"
        raise DataError(msg)
    moved = about.place and Path(about.text).absolute() != Path(about.place)
    text = str(about.place) if moved else about.text
    with nullcontext() if trusted else names_only():
        found = given_data(context, text, about.split)
    return IndexedData(about, found.read, found.workers)


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
