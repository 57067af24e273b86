"""Which rank the others wait for: each notes in the process group's store how far it is.

A thread of each rank writes its note, a few bytes every few seconds, so that a step pays nothing.
Only a rank that has waited for long reads the notes. One that is the same at two looks is of a rank
that does not answer: its process is stopped, or its machine is gone. One that answers, and has
entered fewer collectives than others, is behind. All ranks enter them from Python and in one order,
with gloo and NCCL alike.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from torch import distributed as dist

from contrastive.console import quiet, say
from contrastive.distributed import launcher

if TYPE_CHECKING:
    from collections.abc import Generator

BEAT = 5.0  # seconds between two notes of a rank
LOOK = 6  # beats between two looks of one that waits: with 1,000 ranks a look is 0.2 MB
WARNED = 0.75  # of the time that a collective may take: NCCL then ends the process without a word
ANSWER = timedelta(seconds=30)  # for the store
ASK = timedelta(seconds=1)  # between two questions whether a wait is over


@dataclass
class _Note:
    """How far a rank is."""

    beat: int
    entered: int
    """Collectives that it has entered."""
    place: str
    """What it does, and the line of Python that it is at."""
    process: str


class Heartbeat:
    """The notes of the ranks of a run, of which this rank writes its own."""

    def __init__(self, rank: int, size: int) -> None:
        """Write the first note; torch's process group is there."""
        self._rank, self._size = rank, size
        # where the caller has joined the ranks, torch alone knows the store
        store = cast("Any", dist.distributed_c10d)._get_default_store()
        self._store = store.clone()  # a client of its own: the other may be waited for
        self._store.set_timeout(ANSWER)
        self._main, self._over = threading.get_ident(), threading.Event()
        self._process = f"process {os.getpid()} on {socket.gethostname()}"
        self._beat = self._entered = 0
        self._notes: list[_Note] = []
        self._unheard = [0] * size
        """Of each rank, the looks at which its note was the one before."""
        self._deaf = False
        """Whether the store does not answer."""
        self.patient = False
        """Whether this rank waits for one that may take long."""
        self.move("starts")
        self._write()

    def move(self, place: str | None = None) -> None:
        """Note what this rank does from now on; None if it enters a collective."""
        self._entered += place is None
        self._place = place or self._place
        self._moved = time.monotonic()

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._moved

    @contextmanager
    def written(self) -> Generator[None]:
        """Within the block, write notes, and read those of others when this rank waits."""
        global _own  # noqa: PLW0603
        thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        thread.start()
        _own = self
        try:
            yield
        finally:
            _own = None
            self._over.set()
            thread.join(timeout=1)  # it may wait for a store that has ended

    def _run(self) -> None:
        """Write notes until the end; warn once if another rank lets this one wait long."""
        warned, limit = False, launcher.COLLECTIVE_TIMEOUT.total_seconds()
        while not self._over.wait(BEAT):
            try:
                self._write()
                if self._waited < LOOK * BEAT:
                    self._notes, self._unheard = [], [0] * self._size
                elif self._beat % LOOK == 0:
                    self._look()
                self._deaf = False
            except RuntimeError:
                self._deaf = True
                self._unheard = [looks + 1 for looks in self._unheard]
            if self._waited < WARNED * limit or self.patient:
                warned = False
            elif not warned and (late := self._late()):
                warned = True
                with quiet(on=False):
                    say(f"rank {self._rank} waits: {late}")

    def _write(self) -> None:
        self._beat += 1
        frame = sys._current_frames().get(self._main)  # pyright: ignore[reportPrivateUsage]
        where = f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else ""
        note = _Note(self._beat, self._entered, self._place + where, self._process)
        self._store.set(f"heartbeat/{self._rank}", json.dumps(vars(note)))

    def _look(self) -> None:
        keys = [f"heartbeat/{rank}" for rank in range(self._size)]
        now = [_Note(**json.loads(note)) for note in self._store.multi_get(keys)]
        for rank, before in enumerate(self._notes):
            self._unheard[rank] += 1
            if now[rank].beat != before.beat:
                self._unheard[rank] = 0
        self._notes = now

    def _late(self) -> str:
        """Return which ranks the others wait for; nothing if none is known, or this is one."""
        if self._deaf:
            told = f"the ranks' store has not answered for {_told(self._waited)}"
            return f"{told}: rank 0, or the torchrun of its machine, is stopped, or it is gone"
        if late := [rank for rank, looks in enumerate(self._unheard) if looks]:
            state = "has not answered for {}: it is stopped, or its machine is gone; its last note:"
        else:
            state = "has let the others wait for {}: it"
            most = max((note.entered for note in self._notes), default=0)
            late = [rank for rank, note in enumerate(self._notes) if note.entered < most]
        if self._rank in late or not self._notes:
            return ""
        return " and ".join(
            f"rank {rank} ({self._notes[rank].process}) {state.format(_told(self._waited))} "
            f"{self._notes[rank].place}"
            for rank in late
        )

    def accused(self) -> str:
        """Return which ranks the others wait for; nothing if another rank tells it already."""
        late = self._late()
        try:
            return late if late and self._store.add("heartbeat/told", 1) == 1 else ""
        except RuntimeError:
            return late

    def is_silent(self) -> bool:
        """Whether a rank has not answered for as long as a collective may take.

        Looks are counted: of a job that was stopped as a whole, no rank has missed any.
        """
        return max(self._unheard) * LOOK * BEAT >= launcher.COLLECTIVE_TIMEOUT.total_seconds()


def _told(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


_own: Heartbeat | None = None


def now(place: str) -> None:
    """Note what this rank does from now on, such as ``"loads its data"``, if there are several."""
    if _own:
        _own.move(place)


def entered() -> None:
    """Note that this rank enters a collective."""
    if _own:
        _own.move()


def accused(cause: str) -> str:
    """Return which ranks this one waits for, if that is the cause of an error."""
    return _own.accused() if _own and "timed out" in cause.lower() else ""


def wait_patiently(work: dist.Work) -> None:
    """Wait for a collective of gloo as long as all ranks answer.

    Raises:
        RuntimeError: one does not, or is gone.
    """
    if _own is None:
        work.wait()
        return
    _own.patient = True
    try:
        while True:
            try:
                work.wait(ASK)
            except RuntimeError:
                if work.is_completed():  # it has failed, or just been done
                    work.wait()
                elif _own.is_silent():
                    msg = "timed out"
                    raise RuntimeError(msg) from None
                else:
                    continue
            return
    finally:
        _own.patient = False
