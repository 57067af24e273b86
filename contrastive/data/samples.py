"""What datasets give and encoders take: rows of raw samples, and how they are prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from contrastive.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

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


NOT_MODALITIES = ("id", "source", "label")
"""Keys of a row that are not modalities."""


def rows_of(samples: Samples | Iterable[Sample]) -> list[Sample]:
    """Return every row of a built dataset, map-style or iterable; rows are not decoded yet.

    Example:
        >>> [row["text"] for row in rows_of(iter(rows))]
        ['red', 'blue']
    """
    if hasattr(samples, "__getitem__"):
        rows = cast("Samples", samples)
        return [rows[i] for i in range(len(rows))]
    return list(cast("Iterable[Sample]", samples))


def class_indices(classes: Sequence[str]) -> dict[str, int]:
    """Return the index of each class, to look labels up."""
    return {name: i for i, name in reversed([*enumerate(classes)])}  # the first of equal ones


def check_modalities(rows: Sequence[Sample], modalities: Iterable[str]) -> None:
    """Refuse data that lack what a tower embeds.

    Raises:
        DataError: names the modality, the first row without it, and what that row has.
    """
    for modality in modalities:
        for i, row in enumerate(rows):
            if modality not in row:
                has = ", ".join(name for name in row if name not in NOT_MODALITIES)
                msg = (
                    f"{row.get('source', f'row {i}')}: has no {modality} for towers.{modality}, "
                    f"but {has or 'nothing'}; take other data or other towers"
                )
                raise DataError(msg)
