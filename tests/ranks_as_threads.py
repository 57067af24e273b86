"""Ranks as threads of one process, for what they exchange by objects alone."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

from contrastive.distributed import ranks as ranks_of_a_run
from contrastive.distributed import shared_work
from contrastive.distributed.ranks import Ranks
from contrastive.distributed.shared_work import work_shared_by

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60  # seconds until a rank that waits in vain is given up


class Meeting:
    """Where so many threads exchange objects."""

    def __init__(self, size: int) -> None:
        self.given: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=PATIENCE)

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        self.given[rank] = copy.deepcopy(mine)
        self.barrier.wait()
        found = [*self.given]
        self.barrier.wait()
        return found


def together(monkeypatch: Any, call: Callable[[int], Any], size: int = 2) -> list[Any]:
    """Return what ``call(rank)`` gives or raises on each rank, which share their work."""
    meeting = Meeting(size)
    for module in (shared_work, ranks_of_a_run):
        monkeypatch.setattr(
            module, "all_gather_objects", lambda mine, _, seat: meeting.exchange(seat, mine)
        )
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        seat: Any = rank  # stands for a process group
        try:
            with work_shared_by(Ranks(rank, size, cpu_group=seat)):
                found[rank] = call(rank)
        except Exception as error:  # the test looks at it
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
