"""torch's collectives by names that every supported version has, and one error for a lost rank."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from torch import distributed as dist

from contrastive.distributed.heartbeat import accused, entered, wait_patiently
from contrastive.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import Tensor
    from torch.distributed import ProcessGroup


class LostRank(TrainingError):  # noqa: N818
    """A collective failed because another rank is gone."""


class LateRank(LostRank):
    """A collective took too long; the message names the ranks that were waited for."""


@contextmanager
def lost_rank_told(*, among_others: bool = False) -> Generator[None]:
    """Within the block, a collective that fails says why.

    gloo raises a plain RuntimeError, NCCL a DistError. Other kinds, such as that the memory is
    full, are this rank's own.

    Args:
        among_others: the block does other things, too, whose errors are as plain.

    Raises:
        LostRank: another rank is gone, or has let this one wait for too long.
    """
    if not among_others:
        entered()
    try:
        yield
    except RuntimeError as error:
        cause = str(error).strip().partition("\n")[0]
        of_gloo = type(error) is RuntimeError and ("gloo" in cause or not among_others)
        if not of_gloo and not isinstance(error, dist.DistError):
            raise
        if late := accused(cause):
            raise LateRank(late) from error
        msg = f"another rank of this run has ended; its message, or torchrun's, says why ({cause})"
        raise LostRank(msg) from error


def _named(name: str, *, before: str) -> Callable[..., Any]:
    """Return a function of torch by its name since 2.14, which deprecates the one before.

    It is looked for when it is called, since a torch without ``distributed`` has neither.
    """
    return cast("Callable[..., Any]", getattr(dist, name, None) or getattr(dist, before))


@lost_rank_told()
def all_gather(out: Tensor, x: Tensor, group: ProcessGroup | None) -> None:
    """Fill ``out`` ``[W * n, ...]`` with ``x`` ``[n, ...]`` of every rank, by rank."""
    _named("all_gather_single", before="all_gather_into_tensor")(out, x, group=group)


@lost_rank_told()
def reduce_scatter(out: Tensor, x: Tensor, group: ProcessGroup | None) -> None:
    """Fill ``out`` ``[n, ...]`` with this rank's part of the sum of all ``x`` ``[W * n, ...]``."""
    _named("reduce_scatter_single", before="reduce_scatter_tensor")(out, x, group=group)


@lost_rank_told()
def all_reduce(x: Tensor, group: ProcessGroup | None = None, *, maximum: bool = False) -> None:
    """Replace ``x`` by its sum over the ranks, or by its maximum."""
    dist.all_reduce(x, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM, group=group)


@lost_rank_told()
def _pass_on(x: Tensor, comes: Tensor, group: ProcessGroup | None) -> None:
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    whole = cast("ProcessGroup", group or dist.group.WORLD)
    after, before = (dist.get_global_rank(whole, (rank + step) % size) for step in (1, -1))
    both = (dist.isend, x, after), (dist.irecv, comes, before)
    calls = [dist.P2POp(*call, group) for call in both if call[1].numel()]
    for request in dist.batch_isend_irecv(calls) if calls else ():
        request.wait()


def pass_on(x: Tensor, rows: int, group: ProcessGroup | None) -> Tensor:
    """Send ``x`` ``[n, ...]`` to the next rank; return the ``[rows, ...]`` of the one before.

    A rank that has none sends none, and is sent none: both sides know.
    """
    comes = x.new_empty(rows, *x.shape[1:])
    _pass_on(x.contiguous(), comes, group)
    return comes


@lost_rank_told()
def broadcast(x: Tensor) -> None:
    """Replace ``x`` by that of rank 0."""
    dist.broadcast(x, 0)


@lost_rank_told()
def barrier(group: ProcessGroup | None) -> None:
    """Wait until every rank of a gloo group is here, however long one takes that answers."""
    wait_patiently(dist.barrier(group, async_op=True))


@lost_rank_told()
def _all_gather_objects(found: list[Any], mine: Any, group: ProcessGroup | None) -> None:
    dist.all_gather_object(found, mine, group)


def all_gather_objects(mine: Any, size: int, group: ProcessGroup | None) -> list[Any]:
    """Return a small object of each of ``size`` ranks of a gloo group, by rank.

    One may take long to come.
    """
    barrier(group)
    found: list[Any] = [None] * size
    _all_gather_objects(found, mine, group)
    return found
