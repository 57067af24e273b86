"""Requests of several clients embedded together.

One thread has the model. What has come while it worked is its next batch, so nobody waits for a
batch to become full. Shapes: D wide.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive.console import quiet
from contrastive.errors import BadSample
from contrastive.serving.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from contrastive.model.model import ContrastiveModel

MOST = 64  # samples of a batch


@dataclass
class _Waiting:
    modality: str
    samples: Sequence[Any]
    done: Future[Tensor] = field(default_factory=Future["Tensor"])


class Batches:
    """Embeds what comes, in batches."""

    def __init__(
        self, model: ContrastiveModel, *, most_waiting: int, on_batch: Callable[[int], None]
    ) -> None:
        """Start the thread; ``on_batch`` is called with the size of each batch."""
        self.model, self._most, self._on_batch = model, most_waiting, on_batch
        self._waiting: deque[_Waiting] = deque()
        self._count = 0
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="embedding", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """How many samples wait."""
        return self._count

    def embed(self, modality: str, samples: Sequence[Any]) -> Future[Tensor]:
        """Return what will be the embeddings ``[len(samples), D]``.

        Raises:
            Problem: too many samples wait, or the server stops.
        """
        waiting = _Waiting(modality, samples)
        with self._changed:
            if not self._is_open:
                raise Problem(503, "the server stops; ask again later", code="stopping")
            if self._count + len(samples) > self._most:
                message = f"{self._count} samples wait already; ask again in a second"
                raise Problem(503, message, code="busy", headers={"Retry-After": "1"})
            self._waiting.append(waiting)
            self._count += len(samples)
            self._changed.notify()
        return waiting.done

    def close(self) -> None:
        """Embed what waits, and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            samples = [sample for one in batch for sample in one.samples]
            self._on_batch(len(samples))
            try:
                self._embed(batch, samples)
            except Exception as error:  # the thread goes on
                for one in batch:
                    if not one.done.done():
                        one.done.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """Wait for requests, and return those of one modality that fit into a batch, oldest first.

        Empty when the server stops.
        """
        batch: list[_Waiting] = []
        with self._changed:
            while not batch and (self._waiting or self._is_open):
                self._changed.wait_for(lambda: self._waiting or not self._is_open)
                size, rest = 0, deque[_Waiting]()
                for one in self._waiting:
                    fits = not batch or size + len(one.samples) <= MOST
                    if one.done.cancelled():
                        self._count -= len(one.samples)
                    elif fits and (not batch or one.modality == batch[0].modality):
                        batch.append(one)
                        size += len(one.samples)
                    else:
                        rest.append(one)
                self._waiting = rest
                self._count -= size
        return batch

    def _embed(self, batch: list[_Waiting], samples: list[Any]) -> None:
        problems: dict[int, str] = {}
        at_a_time = 1 << max(0, min(len(samples), MOST) - 1).bit_length()
        with quiet():
            rows = self.model.embed(
                batch[0].modality, samples, batch_size=at_a_time, on_bad=problems.__setitem__
            )
        start = 0
        for one in batch:
            stop = start + len(one.samples)
            bad = [(i - start, text) for i, text in problems.items() if start <= i < stop]
            start = stop
            if not one.done.set_running_or_notify_cancel():
                continue
            if bad:
                number, problem = bad[0]
                one.done.set_exception(BadSample(f"{one.modality} {number}: {problem}"))
            else:
                one.done.set_result(rows[stop - len(one.samples) : stop])
