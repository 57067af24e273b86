"""How long a run waits for its data: a GPU that waits wants more workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Generic, TypeVar

from contrastive.distributed.heartbeat import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
LATEST = 0.9  # of what was known before, in what is told: about ten steps count


class DataWait(Generic[T]):
    """An iterable that knows which share of the time it was waited for."""

    def __init__(
        self, items: Iterable[T], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Take what is iterated once, and what tells seconds."""
        self._items, self._clock = items, clock
        self._waited = self._passed = 0.0

    def __iter__(self) -> Iterator[T]:
        """Yield the items."""
        items = iter(self._items)
        last = self._clock()
        while True:
            asked = self._clock()
            now("loads its data")
            try:
                item = next(items)
            except StopIteration:
                return
            there = self._clock()
            self._waited = LATEST * self._waited + there - asked
            self._passed = LATEST * self._passed + there - last
            last = there
            yield item

    @property
    def share(self) -> float:
        """Of the time of the latest steps, from 0 to 1."""
        return self._waited / self._passed if self._passed else 0.0
