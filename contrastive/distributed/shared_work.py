"""Work that the ranks share, such as encoding: each does its part, and all get what all found.

Within ``work_shared_by`` the ranks run the same code. Where that divides its work, they meet in a
round: each brings its part, or says that it has failed. The end of the block is a round, too. So a
rank that fails anywhere within ends the block on all ranks, none waits for it in vain, and they go
on together. A rank that is gone is a lost one, as in any collective.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from contrastive.config.foreign_errors import foreign_error
from contrastive.config.registry import reason
from contrastive.distributed.collectives import LostRank, all_gather_objects
from contrastive.distributed.ranks import Ranks
from contrastive.errors import ContrastiveError, TrainingError
from contrastive.nn.memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

Part = TypeVar("Part")

END = "has done its part"


class FailedRank(TrainingError):  # noqa: N818
    """Work that the ranks share has failed on one of them; the message names it."""

    def __init__(self, message: str, by: int) -> None:
        """Remember which rank it was."""
        super().__init__(message)
        self.by = by


class _Met(NamedTuple):
    """What a rank brings to a round."""

    step: str
    problem: str | None
    part: object


class SharedWork:
    """What this rank does of the work that ``ranks`` share; all of it, if it is alone."""

    def __init__(self, ranks: Ranks) -> None:
        """Share work with the other ranks, all of which do so."""
        self.ranks = ranks
        self.size = ranks.size
        self._over = False

    def own(self, pieces: Sequence[Part]) -> list[Part]:
        """Return this rank's pieces, dealt out in turn: those that take long are neighbours."""
        return list(pieces[self.ranks.rank :: self.size])

    def all_gather(self, step: str, mine: Part) -> list[Part]:
        """Return what each rank has, by rank, once all are here.

        Args:
            step: what a rank does here, such as ``"embeds 40 image samples"``; that of all.
            mine: this rank's part, which is copied by pickle.

        Raises:
            FailedRank: a rank has failed, or does something else.
            LostRank: a rank is gone.
        """
        if self.size == 1:
            return [mine]
        return [cast("Part", met.part) for met in self._round(_Met(step, None, mine))]

    def end(self, error: Exception | None = None) -> None:
        """Meet the others for the last time, by an error maybe.

        The main rank raises its own error, or what failed elsewhere; another rank tells only a
        bug of its own, whose traceback nobody else has.

        Raises:
            FailedRank: a rank has failed, and this one has nothing to tell.
            LostRank: a rank is gone.
        """
        if self.size == 1 or self._over:
            return
        try:
            self._round(_Met(END, None if error is None else _problem(error), None))
        except FailedRank as failed:
            if error is None:
                raise
            is_bug = not isinstance(error, (ContrastiveError, OSError)) and not out_of_memory(error)
            if not self.ranks.is_main and not (is_bug and failed.by):
                raise failed from error

    def _round(self, mine: _Met) -> list[_Met]:
        found: list[_Met] = all_gather_objects(mine, self.size, self.ranks.cpu_group)
        steps = [met.step for met in found]
        other = next((rank for rank, step in enumerate(steps) if step != steps[0]), None)
        failed = next((rank for rank, met in enumerate(found) if met.problem is not None), None)
        self._over = mine.step == END or other is not None or failed is not None
        if failed is not None:
            raise FailedRank(f"rank {failed}: {found[failed].problem}", failed)
        if other is not None:
            msg = (
                f"the ranks have different data: rank 0 {steps[0]}, rank {other} {steps[other]}; "
                "the data have to be the same on every machine"
            )
            raise FailedRank(msg, other)
        return found


def _problem(error: Exception) -> str:
    if isinstance(error, ContrastiveError):
        return str(error)
    return out_of_memory(error) or str(foreign_error(error) or reason(error))


_work: ContextVar[SharedWork | None] = ContextVar("shared_work", default=None)


def shared_work() -> SharedWork:
    """Return the work that is shared in this block; outside of any, that of one rank."""
    return _work.get() or SharedWork(Ranks())


@contextmanager
def work_shared_by(ranks: Ranks) -> Generator[None]:
    """Within a block, which all ranks run alike, let them share the work of encoding.

    Raises:
        FailedRank: a rank has failed within the block; on all ranks.
        LostRank: a rank is gone.
    """
    work = SharedWork(ranks)
    token = _work.set(work)
    try:
        yield
    except LostRank:
        raise
    except Exception as error:
        work.end(error)
        raise
    else:
        work.end()
    finally:
        _work.reset(token)
