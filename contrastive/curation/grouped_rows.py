"""The rows of a split as samples: those of one image together, read ahead where that takes long.

Shapes: N rows of a split, S samples, of which one with several captions has several rows.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from contrastive.curation.tar_shards import Members, members_of
from contrastive.data.bad_rows import BadRows, bad_rows_of
from contrastive.data.columns import ids_of, keys_in
from contrastive.data.equal_values import distinct, value_codes
from contrastive.data.images import StoredImage
from contrastive.data.samples import NOT_MODALITIES, Sample, rows_of
from contrastive.data.url_images import AT_ONCE, UrlImage
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrastive.data.samples import Samples

LOOKED_AT = 100  # rows, that tell whether images are fetched


class Split(NamedTuple):
    """A split to write."""

    name: str
    rows: Sequence[Sample]
    order_N: np.ndarray
    """Rows, those of a sample together."""
    ends_S: np.ndarray
    bad_rows: BadRows

    def sample(self, number: int) -> list[Sample]:
        """Return the rows of a sample."""
        start = int(self.ends_S[number - 1]) if number else 0
        return [self.rows[int(i)] for i in self.order_N[start : int(self.ends_S[number])]]


def grouped(name: str, samples: Samples) -> Split:
    """Put the rows of an image together, at the place of the first."""
    rows = rows_of(samples, needs_ids=False)
    modalities = sorted({*keys_in(rows)} - {*NOT_MODALITIES, "text"})
    codes = [value_codes(rows, key, _name) for key in modalities]
    # a row of a text alone is a sample
    alone_N = np.all([code < 0 for code in codes] or [np.ones(len(rows), np.bool_)], axis=0)
    own_N = np.where(alone_N, np.arange(len(rows)) + 1, 0)
    found = distinct(own_N, *codes, value_codes(rows, "label", _name), ids_of(rows))
    order_N = np.argsort(found.which_N, kind="stable")
    ends_S = np.cumsum(np.bincount(found.which_N))
    return Split(name, rows, order_N, ends_S, bad_rows_of(samples).copy())


def _name(value: object) -> object:
    """Return what is equal for equal samples: of an image in memory, the object that it is."""
    return value if isinstance(value, (str, bytes, Path, StoredImage)) else id(value)


Prepared = tuple[list[Sample], Members | BadSample]
"""The rows of a sample, and what is written of it, or why it cannot be read."""


def prepared(split: Split, first: int) -> Iterator[Prepared]:
    """Yield the samples from one on; images by address are fetched ahead, several at a time."""

    def prepare(number: int) -> Prepared:
        rows = split.sample(number)
        try:
            return rows, members_of(rows, split.name)
        except BadSample as error:
            return rows, error

    numbers = range(first, len(split.ends_S))
    if not any(isinstance(row.get("image"), UrlImage) for row in split.rows[:LOOKED_AT]):
        yield from map(prepare, numbers)
        return
    with ThreadPoolExecutor(AT_ONCE) as threads:
        ahead: deque[Future[Prepared]] = deque()
        try:
            for number in numbers:
                ahead.append(threads.submit(prepare, number))
                if len(ahead) > AT_ONCE:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for each in ahead:
                each.cancel()
