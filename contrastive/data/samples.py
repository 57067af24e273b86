"""What datasets give and encoders take: rows of raw samples, and how they are prepared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, cast

from contrastive.config.base import Config
from contrastive.config.garbage import garbage_later
from contrastive.errors import DataError, a_type, is_missing

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.data.columns import Columns

Sample = dict[str, Any]
"""One row: a raw sample per modality, its group id, and where it came from.

``{"image": path | bytes | PIL image, "text": str, "id": int, "source": "captions.csv:17"}``;
``"label"`` names the class of the row where there are classes. Decoding belongs to the encoder.
Rows are held in memory; a ``contrastive.data.images.StoredImage`` is read only when it is needed.

Example:
    >>> sample: Sample = {"image": red, "text": "a red square", "id": 0, "source": "captions.csv:2"}
    >>> model.embed("text", [sample["text"]]).shape
    torch.Size([1, 8])
"""


class Samples(Protocol):
    """A built dataset: rows by index, cheap to read.

    Two attributes are optional: ``classes`` (names of the classes that the rows' ``"label"``
    takes) and ``bad_rows`` (a ``BadRows`` with the rows that were left out).

    Example:
        >>> samples: Samples = rows
        >>> len(samples), samples[0]["text"]
        (2, 'red')
    """

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """Return one row."""
        ...


Preprocess = Callable[[Sequence[Any]], "dict[str, Tensor]"]
"""Raw samples to the keyword arguments of ``forward``, first dimension B, on the CPU.

It is picklable (it runs in worker processes), and its ``repr`` names everything that changes its
result, since the feature cache takes that text as a part of its key.

Example:
    >>> list(encoders["cbow"](width=16).build().preprocess(["a red square"]))
    ['words']
"""


EXAMPLE = "{'image': path, 'text': 'a dog', 'id': 0}"
ID_LIMIT = 2**63  # numbers on each side of zero, of 64 bits
HOLD_FRAMES = {
    "LazyFrame": "collect it: frame.collect()",
    "DatasetDict": "give one of its splits, such as dataset['train']",
}
"""What gives the frames of which rows are taken, by the name of a type that is none itself."""
TABLE = re.compile(r"(.+\.(?:csv|tsv|jsonl?|parquet|arrow|feather)(?:\.gz)?):(?: row )?\d+")
"""Where a row stands in a table: its file, and the row."""
NOT_MODALITIES = ("id", "source", "label")
"""Keys of a row that are not modalities."""


@garbage_later()
def rows_of(samples: Samples | Iterable[Sample], *, needs_ids: bool = True) -> Sequence[Sample]:
    """Return every row of a built dataset, map-style or iterable; rows are not decoded yet.

    Those of a built-in dataset stay in columns: each is made when it is asked for; so do those of
    a frame of pandas or polars, a table of pyarrow or a dataset of the hub, with the columns
    ``image``, ``text``, ``id`` and so on.

    Ids that are strings become numbers, equal ones alike. Without ``needs_ids``, rows that have no
    id are groups of their own.

    Raises:
        DataError: these are no rows, or a row has no id; says what to give.

    Example:
        >>> [row["text"] for row in rows_of(iter(rows))]
        ['red', 'blue']
    """
    from contrastive.data.columns import Columns  # numpy, which a spec does without
    from contrastive.data.frames import frame_rows, library_of

    if isinstance(samples, Columns):
        return samples
    if library_of(samples):
        return _with_ids(frame_rows(samples), needs_ids=needs_ids)
    rows = plain_rows(samples)
    if not needs_ids and not any("id" in row for row in rows):
        return [{**row, "id": i} for i, row in enumerate(rows)]
    if all(type(each := row.get("id")) is int and -ID_LIMIT <= each < ID_LIMIT for row in rows):
        return rows
    for i, row in enumerate(rows):
        if row.get("id") is None:
            msg = (
                f"{row.get('source') or f'row {i}'}: has no id; give each row one, equal in a group"
            )
            raise DataError(msg)
    ids = group_numbers([row["id"] for row in rows])
    return [{**row, "id": number} for row, number in zip(rows, ids, strict=True)]


@garbage_later()
def plain_rows(samples: Samples | Iterable[Sample]) -> list[Sample]:
    """Return every row of a built dataset as it is.

    Raises:
        DataError: these are no rows; says what to give.

    Example:
        >>> plain_rows(rows)[0]["text"]
        'red'
    """
    from contrastive.data.frames import frame_rows, library_of

    if library_of(samples):
        return [*frame_rows(samples)]
    if remedy := _no_rows(samples):
        name = samples.__name__ if isinstance(samples, type) else a_type(samples)
        msg = f"{name} holds no rows of data; {remedy}"
        raise DataError(msg)
    if hasattr(samples, "__getitem__"):
        by_index = cast("Samples", samples)
        rows = [by_index[i] for i in range(_length(by_index))]
    else:
        rows = list(cast("Iterable[Sample]", samples))
    for i, row in enumerate(cast("list[Any]", rows)):
        if not isinstance(row, (dict, Mapping)):  # the first is soon known
            msg = f"row {i} of the data is {a_type(row)}; give dicts, such as {EXAMPLE}"
            raise DataError(msg)
    return rows


def _with_ids(rows: Columns, *, needs_ids: bool) -> Columns:
    """Return the rows of a frame with numbers for ids.

    Raises:
        DataError: some have no id, and need one.
    """
    import numpy as np

    from contrastive.data.column_kinds import Integers, RowNumbers
    from contrastive.data.columns import values_of

    if "id" not in rows.columns and not needs_ids:
        rows.columns["id"] = RowNumbers(len(rows))
        return rows
    ids = [*values_of(rows, "id")] if "id" in rows.columns else [None]
    if (i := next((i for i, each in enumerate(ids) if is_missing(each)), None)) is not None:
        msg = f"row {i}: has no id; give each row one, equal in a group, in a column id"
        raise DataError(msg)
    rows.columns["id"] = Integers(np.array(group_numbers(ids), np.int64))
    return rows


def _length(samples: Samples) -> int:
    try:
        return len(samples)
    except (TypeError, ValueError, OverflowError) as error:
        if error.__traceback__ and error.__traceback__.tb_next:  # raised within it
            raise
        msg = f"the length of {a_type(samples)} is not known: {error}; let __len__ return a count"
        raise DataError(msg) from error


def _no_rows(samples: Any) -> str:
    """Return what to give instead of something that is not iterated over as rows; else nothing."""
    kind = getattr(samples, "kind", "")
    if isinstance(samples, type):
        built = f"build a split of an object of it: {samples.__name__}(...).build('test')"
        return built if kind == "dataset" else "it is a class; give an object of it"
    if isinstance(samples, Config) and (kind == "dataset" or hasattr(samples, "data")):
        name, what = ("data", "it") if kind == "dataset" else ("spec.data", "its data")
        return f"build a split of {what}: {name}.build('test')"
    if isinstance(samples, (str, bytes, PathLike)):
        return "build a dataset: contrastive.datasets.ImageFolder(folder=...).build('test')"
    if remedy := HOLD_FRAMES.get(type(samples).__name__):
        return remedy
    if isinstance(samples, (Mapping, Config)) or not (
        isinstance(samples, Iterable) or hasattr(samples, "__getitem__")
    ):
        return f"give a built dataset, or a list of dicts such as {EXAMPLE}"
    return ""


def id_list(ids: Any) -> list[Any]:
    """Return group ids in any form, such as a tensor or a Series, as a list.

    Raises:
        DataError: they are not several, or have no order.
    """
    plain = ids.tolist() if hasattr(ids, "tolist") else ids
    unordered = isinstance(plain, (str, bytes, Mapping, AbstractSet))
    if (unordered and not isinstance(plain, KeysView)) or not isinstance(plain, Iterable):
        msg = f"ids are {a_type(ids)}; give one for each row, in a list or a tensor"
        raise DataError(msg)
    return list(cast("Iterable[Any]", plain))


def group_numbers(ids: Iterable[Any]) -> list[int]:
    """Return group ids as integers of 64 bits; where some are none, equal ids get one number.

    Raises:
        DataError: an id is neither an integer nor a string.
    """
    listed = list(ids)
    for i, each in enumerate(listed):
        if isinstance(each, (str, int)) or (isinstance(each, Real) and float(each).is_integer()):
            continue
        msg = f"the id of row {i} is {each!r}; ids are integers or strings, equal in a group"
        raise DataError(msg)
    if any(isinstance(each, str) or not -ID_LIMIT <= each < ID_LIMIT for each in listed):
        number = {each: i for i, each in enumerate(dict.fromkeys(listed))}
        return [number[each] for each in listed]
    return [int(each) for each in listed]


def class_indices(classes: Sequence[str]) -> dict[str, int]:
    """Return the index of each class, to look labels up."""
    return {name: i for i, name in reversed([*enumerate(classes)])}  # the first of equal ones


def check_modalities(
    rows: Sequence[Sample], modalities: Iterable[str], *, remedy: str = ""
) -> None:
    """Refuse data that lack what a tower embeds.

    ``remedy`` says what else to give; without it the remedy is that of a spec to train.

    Raises:
        DataError: names the modality, the first row without it, and what that row has.
    """
    from contrastive.data.columns import has_all

    for modality in modalities:
        if has_all(rows, modality):
            continue
        i, row = next((i, row) for i, row in enumerate(rows) if modality not in row)
        has = ", ".join(name for name in row if name not in NOT_MODALITIES)
        msg = (
            f"{row.get('source', f'row {i}')}: has no {modality} for towers.{modality}, "
            f"it has {has or 'nothing'}; {remedy or 'take other data or other towers'}"
        )
        if not remedy and modality == "text" and "label" in row:
            msg += "; with type: class-folders, data.captions makes captions of the classes"
        if modality == "image" and (table := TABLE.match(str(row.get("source", "")))):
            msg += (
                f"; if a column has images, give type=table,files={table[1]},image_column=COLUMN, "
                "or url_column=COLUMN if they are addresses"
            )
        raise DataError(msg)
