"""Which of the samples that a cache lacks each rank encodes, where several share the work.

Shapes: N samples, told by their index, which is that of all ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from contrastive.distributed.shared_work import SharedWork

NAMED = 4  # ranks, in a message


def missing_shares(
    work: SharedWork,
    samples: Sequence[Any],
    what: str,
    missing: Callable[[], list[int]],
    *,
    batch_size: int,
) -> Iterator[list[int]]:
    """Yield what this rank is to encode, until no rank lacks anything.

    First the ranks divide what any of them lacks. A rank whose cache is another one does not find
    there what the others wrote, so that it encodes that too, with those that lack the same.

    Args:
        work: of the ranks.
        samples: all of them, N.
        what: they are, such as ``"image samples"``.
        missing: looks up what this rank lacks by now.
        batch_size: samples that are encoded at a time.

    Raises:
        FailedRank: a rank has failed, or has other samples.
    """

    def by_length(i: int) -> tuple[int, int]:  # so that little is padded
        return (len(samples[i]) if isinstance(samples[i], str) else 0, i)

    if work.size == 1:
        yield sorted(missing(), key=by_length)
        return
    step, rank = f"encodes {len(samples)} {what}", work.ranks.rank
    first = True
    while True:
        mine = set(missing())
        found = work.all_gather(step, _packed(mine, len(samples)))
        if not any(any(each) for each in found):
            return
        alike = [r for r, each in enumerate(found) if first or each == found[rank]]
        if not first:
            _tell_of_other_caches(found, what)
        wanted = sorted({i for r in alike for i in _unpacked(found[r])}, key=by_length)
        groups = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
        yield [i for group in groups[alike.index(rank) :: len(alike)] for i in group if i in mine]
        first = False


def _packed(indices: set[int], size: int) -> bytes:
    mask_N = np.zeros(size, np.bool_)
    mask_N[list(indices)] = True
    return np.packbits(mask_N).tobytes()


def _unpacked(mask: bytes) -> list[int]:
    return np.unpackbits(np.frombuffer(mask, np.uint8)).nonzero()[0].tolist()


def _tell_of_other_caches(found: list[bytes], what: str) -> None:
    lacking = {rank: len(_unpacked(mask)) for rank, mask in enumerate(found) if any(mask)}
    who = ", ".join(map(str, [*lacking][:NAMED])) + (", ..." if len(lacking) > NAMED else "")
    say(
        f"{max(lacking.values())} {what} that other ranks have encoded are not in the cache of "
        f"rank {who}, and are encoded again; set CONTRASTIVE_CACHE to a folder that all ranks share"
    )
