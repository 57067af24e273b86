"""Requests of several clients embedded together.

One thread has the model. What has come while it worked is its next batch, so nobody waits for a
batch to become full. A request that nobody waits for any longer is dropped. Shapes: D wide.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

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
    taken: int = 0
    """How many samples the model has been given."""
    rows: list[Tensor] = field(default_factory=list["Tensor"])

    @property
    def left(self) -> int:
        return len(self.samples) - self.taken

    def take(self, most: int) -> _Piece:
        start, self.taken = self.taken, min(self.taken + most, len(self.samples))
        return _Piece(self, start, self.samples[start : self.taken])


@dataclass(frozen=True)
class _Piece:
    """Samples of one request in a batch."""

    request: _Waiting
    start: int
    samples: Sequence[Any]


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
            samples = [sample for piece in batch for sample in piece.samples]
            self._on_batch(len(samples))
            try:
                self._embed(batch, samples)
            except Exception as error:  # the thread goes on
                for piece in batch:
                    _fail(piece.request, error)

    def _next(self) -> list[_Piece]:
        """Wait for requests, and return samples of one modality, of those that wait longest.

        Each request has an equal share of a batch, so that a large one does not hold up the small.
        Empty when the server stops.
        """
        with self._changed:
            while self._waiting or self._is_open:
                self._changed.wait_for(lambda: self._waiting or not self._is_open)
                self._waiting = deque(one for one in self._waiting if not one.done.done())
                self._count = sum(one.left for one in self._waiting)
                if self._waiting:
                    break
            else:
                return []
            modality = self._waiting[0].modality
            asking = [one for one in self._waiting if one.modality == modality][:MOST]
            asking.sort(key=lambda one: one.left)  # what the small ones leave is for the large
            batch: list[_Piece] = []
            places = MOST
            for number, one in enumerate(asking):
                batch.append(one.take(places // (len(asking) - number)))
                places -= len(batch[-1].samples)
                self._waiting.remove(one)
            self._waiting.extend(one for one in asking if one.left)
            self._count -= MOST - places
        return batch

    def _embed(self, batch: list[_Piece], samples: list[Any]) -> None:
        problems: dict[int, str] = {}
        modality = batch[0].request.modality
        at_a_time = 1 << (len(samples) - 1).bit_length()
        with quiet():
            rows = self.model.embed(
                modality, samples, batch_size=at_a_time, on_bad=problems.__setitem__
            )
        begin = 0
        for piece in batch:
            end = begin + len(piece.samples)
            bad = [(i - begin, text) for i, text in problems.items() if begin <= i < end]
            one = piece.request
            one.rows.append(rows[begin:end])
            begin = end
            if bad:
                number, problem = bad[0]
                _fail(one, BadSample(f"{modality} {piece.start + number}: {problem}"))
            elif not one.left and one.done.set_running_or_notify_cancel():
                one.done.set_result(torch.cat(one.rows) if len(one.rows) > 1 else one.rows[0])


def _fail(request: _Waiting, error: Exception) -> None:
    if not request.done.done() and request.done.set_running_or_notify_cancel():
        request.done.set_exception(error)
