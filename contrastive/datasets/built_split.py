"""A split of a dataset, whoever wrote that: what is relied on is looked at when it is built."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.part_calls import call_part
from contrastive.config.provenance import described, is_ours
from contrastive.data.bad_rows import BadRows
from contrastive.data.samples import group_numbers, plain_rows
from contrastive.datasets.captions.markup import tell_of_markup
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.single_modality import RowList
from contrastive.errors import DataError, a_type

if TYPE_CHECKING:
    from contrastive.data.samples import Samples
    from contrastive.datasets import Dataset, Purpose, SplitReader


def build_split(data: Dataset, split: str, *, purpose: Purpose = "evaluation") -> Samples:
    """Return a split of a dataset; that of somebody else's is read, and held in memory.

    Raises:
        DataError: it cannot be read, or holds no rows of data; names the dataset and its package.

    Example:
        >>> from contrastive.datasets import ImageFolder
        >>> len(build_split(ImageFolder(folder="photos"), "train")) > 0
        True
    """
    samples = call_part(data, data.build, split, purpose=purpose)
    if is_ours(type(data)):
        return samples
    try:
        checked = _checked(samples)
    except DataError as error:
        msg = f"{described(type(data))}: {error}"
        raise DataError(msg) from error
    who = described(type(data))
    tell_of_alike(checked.classes, who)
    texts = ((row.get("text"), str(row.get("source"))) for row in checked.rows)
    tell_of_markup(((text, place) for text, place in texts if isinstance(text, str)), who)
    return checked


def split_reader(data: Dataset) -> SplitReader:
    """Return what reads splits as ``build_split`` does, but reads once what they share.

    Example:
        >>> from contrastive.datasets import ImageFolder
        >>> read = split_reader(ImageFolder(folder="photos"))
        >>> len(read("train", purpose="training")) > 0
        True
    """
    own = vars(type(data)).get("_reader")  # not of a class that has another build
    return own(data) if own and is_ours(type(data)) else partial(build_split, data)


def _checked(samples: Any) -> RowList:
    rows = plain_rows(samples)
    group_numbers(row["id"] for row in rows if row.get("id") is not None)
    bad_rows = getattr(samples, "bad_rows", None) or BadRows()
    if not isinstance(bad_rows, BadRows):
        msg = f"its bad_rows are {a_type(bad_rows)}; give a contrastive.interface.BadRows"
        raise DataError(msg)
    classes: Any = getattr(samples, "classes", None) or ()
    several = isinstance(classes, Sequence) and not isinstance(classes, str)
    if not several or not all(isinstance(name, str) for name in cast("Any", classes)):
        msg = f"its classes are {classes!r:.80}; give a list of strings"
        raise DataError(msg)
    for i, row in enumerate(rows):
        if not isinstance(label := row.get("label"), str | None):
            msg = f"the label of row {i} is {a_type(label)}; give the name of its class, a string"
            raise DataError(msg)
    return RowList(rows, bad_rows, classes=tuple(cast("Sequence[str]", classes)))
