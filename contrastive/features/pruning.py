"""Delete what is in the cache: what was not used for long, is too much, or is read by nobody."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.amounts import byte_count, seconds_of
from contrastive.data.storage.file_locks import unused
from contrastive.errors import SpecError
from contrastive.features.inventory import CachedEncoder, Copy, is_ours, list_cache
from contrastive.features.store import ABOUT

if TYPE_CHECKING:
    from contrastive.features.inventory import CacheContents


@dataclass(frozen=True)
class Pruned:
    """What was deleted from a cache."""

    encoders: tuple[CachedEncoder, ...]
    copies: tuple[Copy, ...]
    in_use: tuple[Path, ...]
    """What stays, though it was to go, since a process uses it or it may not be deleted."""

    @property
    def bytes(self) -> int:
        """How many are free now."""
        return sum(each.bytes for each in (*self.encoders, *self.copies))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "bytes": self.bytes,
            "encoders": [each.as_dict() for each in self.encoders],
            "copies_and_indexes": len(self.copies),
            "in_use": [str(path) for path in self.in_use],
        }


def prune_cache(
    folder: str | Path | None = None,
    *,
    older_than: float | str | None = None,
    max_size: int | str | None = None,
    outdated: bool = False,
) -> Pruned:
    """Delete features of encoders and copies of remote files; never what a process uses.

    Indexes of tar shards go, too, by age and size; models that were fetched from a storage do not.

    Args:
        folder: of the cache; if None, the user's own.
        older_than: what was not used for so many seconds, or such as ``"30d"``.
        max_size: what was used longest ago, until the rest has at most so many bytes, or such as
            ``"20GB"``.
        outdated: features that an earlier version has kept, which nothing reads.

    Raises:
        SpecError: none of these is given, or one is no time or size.
        DataError: there is no such folder.

    Example:
        >>> tower = model.tower("image")
        >>> len(FeatureCache("features").table(tower.spec.encoder, tower.encoder, [red, blue]))
        2
        >>> len(prune_cache("features", max_size=0).encoders)
        1
    """
    found = list_cache(folder)
    return remove(to_prune(found, older_than=older_than, max_size=max_size, outdated=outdated))


def to_prune(
    found: CacheContents,
    *,
    older_than: float | str | None = None,
    max_size: int | str | None = None,
    outdated: bool = False,
) -> list[CachedEncoder | Copy]:
    """Return what ``prune_cache`` would delete, what was used longest ago first.

    Raises:
        SpecError: nothing is asked for, or it is no time or size.
    """
    if older_than is None and max_size is None and not outdated:
        msg = "nothing to delete is named; give older_than (30d), max_size (20GB) or outdated"
        raise SpecError(msg)
    before = None if older_than is None else time.time() - seconds_of("older_than", older_than)
    most = None if max_size is None else byte_count("max_size", max_size)
    going: list[CachedEncoder | Copy] = []
    rest: list[CachedEncoder | Copy] = []
    parts = (*found.encoders, *found.copies, *found.shards)
    for each in sorted(parts, key=lambda each: each.last_used):
        is_outdated = outdated and isinstance(each, CachedEncoder) and each.outdated is not None
        goes = is_outdated or (before is not None and each.last_used < before)
        (going if goes else rest).append(each)
    total = found.bytes - sum(each.bytes for each in going)
    for each in rest:
        if most is None or total <= most:
            break
        going.append(each)
        total -= each.bytes
    return going


def remove(going: list[CachedEncoder | Copy]) -> Pruned:
    """Delete these, unless a process uses them."""
    encoders: list[CachedEncoder] = []
    copies: list[Copy] = []
    stay: list[Path] = []
    for each in going:
        if isinstance(each, CachedEncoder):
            encoders += [each] if (gone := removed(each)) else []
        else:
            copies += [each] if (gone := _removed_copy(Path(each.path))) else []
        if not gone:
            stay.append(each.folder if isinstance(each, CachedEncoder) else Path(each.path))
    return Pruned(tuple(encoders), tuple(copies), tuple(stay))


def removed(encoder: CachedEncoder) -> bool:
    """Delete the features of an encoder, unless a process uses them; return whether it did.

    Files in the folder that are not of the cache stay. The description is the last that goes, so
    that what is left by a kill is listed, and can be deleted.
    """
    described = encoder.folder / ABOUT
    if not described.exists():
        return _emptied(encoder.folder)
    with unused(described) as free:
        return free and _emptied(encoder.folder)


def _emptied(folder: Path) -> bool:
    try:
        ours = [path for path in folder.iterdir() if is_ours(path.name)]
        for path in sorted(ours, key=lambda path: path.name == ABOUT):
            path.unlink(missing_ok=True)
    except OSError:
        return False
    with suppress(OSError):  # there is something else in it
        folder.rmdir()
    return True


def _removed_copy(path: Path) -> bool:
    try:
        with unused(path) as free:
            if free:
                path.unlink(missing_ok=True)
            return free
    except OSError:
        return False
