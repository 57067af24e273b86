"""A step that fails for want of memory, a worker or a rank, or by a bug: what was done is saved."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contrastive.console import say, show_bug
from contrastive.data.worker_processes import LostWorker
from contrastive.distributed.collectives import LateRank, LostRank
from contrastive.distributed.heartbeat import now
from contrastive.errors import ContrastiveError, DataError
from contrastive.nn.memory import OutOfMemory, out_of_memory
from contrastive.nn.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from contrastive.distributed.ranks import Ranks
    from contrastive.model.model import ContrastiveModel
    from contrastive.training.batches import Batch

GO_ON = "go on with resume=True (--resume)"


class Steps:
    """How far a run is: the steps that are done, and whether the model is that of the last one."""

    def __init__(self, model: ContrastiveModel, start: int) -> None:
        """Begin after ``start`` steps."""
        self.start = self.done = start
        self.batch: Batch | None = None
        self._model = model
        self._before: Snapshot | None = None
        self._whole = True

    def begin(self, batch: Batch) -> None:
        """Note the state that a step begins with."""
        now(f"computes step {self.done + 1}")
        self.batch = batch
        self._before = Snapshot(self._model)

    @contextmanager
    def update(self) -> Generator[None]:
        """Within the block, the weights change; after it, another step is done."""
        self._whole = False
        yield
        self._whole = True
        self._before = None
        self.done += 1

    def undo(self) -> bool:
        """Go back to the end of the last step, if that is possible."""
        if self._before:
            self._before.restore()
        return self._whole


@contextmanager
def finished_steps_saved(
    model: ContrastiveModel,
    ranks: Ranks,
    start: int,
    *,
    save: Callable[[int], None],
    advise: Callable[[Batch], str],
) -> Generator[Steps]:
    """Within the block, let what a run meets from outside cost no step that was done.

    Args:
        model: that is trained.
        ranks: of which the main one saves.
        start: steps that were done before.
        save: writes the checkpoint of so many steps, unless there is one.
        advise: says what takes the memory of a step of such a batch, and what would help.

    Raises:
        LostWorker: a worker process was killed.
        LostRank: another rank has ended.
        OutOfMemory: this one has none left.
        DataError: samples cannot be read, and too many are bad.
    """
    steps = Steps(model, start)
    try:
        yield steps
    except Exception as error:
        kind, told = _outside(error)
        if kind is None:
            bug = not isinstance(error, ContrastiveError)  # of a plugin maybe
            if bug and steps.undo() and steps.done > start and ranks.is_main:
                say(_saved(steps.done, save))
            raise
        lacks_memory = kind is OutOfMemory and not isinstance(error, OutOfMemory)
        traceback.clear_frames(error.__traceback__)  # they hold what fills the memory
    else:
        return
    if not steps.undo():
        told += "; this was in the midst of an update, so that the step is not saved"
    elif steps.done > start and ranks.is_main:
        told += f"; {_saved(steps.done, save)}"
    if lacks_memory and steps.batch:
        told += f"; {advise(steps.batch)}"
    if ranks.size > 1 and not issubclass(kind, LostRank):
        told = f"rank {ranks.rank}: {told}"
    raise kind(told)


def _saved(done: int, save: Callable[[int], None]) -> str:
    """Save what was done; say so, or why not: what ended the run is told before it."""
    try:
        save(done)
    except Exception as error:  # of a checkpoint in the background, too
        problem = "" if isinstance(error, ContrastiveError) else out_of_memory(error)
        if not problem:
            show_bug(error)
        return f"step {done} is not saved: {problem or ' '.join(str(error).split())}"
    return f"saved at step {done}; {GO_ON}"


def _outside(error: Exception) -> tuple[type[ContrastiveError] | None, str]:
    """Return the kind of error that is raised for one from outside, and its line."""
    for kind in (LostWorker, LateRank, LostRank, OutOfMemory, DataError):
        if isinstance(error, kind):
            return kind, str(error)
    if not isinstance(error, ContrastiveError) and (problem := out_of_memory(error)):
        return OutOfMemory, problem
    return None, ""
