"""Which shards a spec means: files, folders, patterns and addresses, always in one order."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.config.local_files import ADDRESS, check_regular
from contrastive.console import say
from contrastive.data.shards import Shard
from contrastive.data.storage.folders import files_below
from contrastive.data.storage.remote_folders import CHECK_STORAGE, StorageError, remote_folder
from contrastive.data.tar_members import COMPRESSED
from contrastive.datasets.splits import GAP, SPLIT_ALIASES, SPLITS, split_named
from contrastive.errors import DataError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrastive.data.storage.remote_folders import FileAbout

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_SHARDS = 1_000_000  # shards
LONGEST_NUMBER = 100  # digits
MAGIC = re.compile(r"[*?[]")
ASKED_TOGETHER = 16  # requests to a server that lists no files
ENDS = (".gz", ".bz2", ".xz", ".zst")
TARS = (".tar",)
UNFINISHED = "shards.partial.json"
"""What `contrastive data shard` has beside its shards until all of them are there."""
UNPACK = dict(zip(ENDS, COMPRESSED.values(), strict=True))


def expanded(pattern: str) -> list[str]:
    """Return what braces stand for, as a shell has it; ``{split}`` stays.

    Raises:
        DataError: they stand for too many.

    Example:
        >>> expanded("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    try:
        return _expanded(pattern)
    except OverflowError:
        msg = f"{pattern[:200]}: more than {MOST_SHARDS:,} shards"
        raise DataError(msg) from None


def _expanded(pattern: str) -> list[str]:
    for found in BRACES.finditer(pattern):
        inside, choices = found[1], list[str]()
        if span := RANGE.fullmatch(inside):
            if max(map(len, span.groups())) > LONGEST_NUMBER:
                raise OverflowError
            first, last = int(span[1]), int(span[2])
            if abs(last - first) >= MOST_SHARDS:
                raise OverflowError
            width = len(span[1]) if span[1].startswith("0") else 0
            step = 1 if first <= last else -1
            choices = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        elif "," in inside:
            choices = inside.split(",")
        if choices:
            before, after = pattern[: found.start()], pattern[found.end() :]
            rest = _expanded(after)
            if len(choices) * len(rest) > MOST_SHARDS:
                raise OverflowError
            return [f"{before}{choice}{end}" for choice in choices for end in rest]
    return [pattern]


def find_shards(given: Sequence[str], *, cache_bytes: int) -> list[tuple[Shard, str]]:
    """Return the shards, and the split of each by its name; nothing if that says none.

    Raises:
        DataError: there are none, or one is not there.
        StorageError: a storage cannot be asked.
    """
    try:
        return _find(given, cache_bytes)
    except StorageError as error:
        msg = f"{error}; {CHECK_STORAGE}"
        raise StorageError(msg) from error


def _find(given: Sequence[str], cache_bytes: int) -> list[tuple[Shard, str]]:
    named: list[tuple[str, str]] = []
    for pattern in given:
        if GAP not in pattern:
            named += [(place, "") for place in _places(pattern)]
            continue
        found = [
            (place, SPLIT_ALIASES.get(name, name))
            for name in (*SPLITS, *SPLIT_ALIASES)
            for place in _places(pattern.replace(GAP, name), needed=False)
        ]
        if not found:
            looked = ", ".join(pattern.replace(GAP, name) for name in SPLITS)
            msg = f"{pattern}: no shards; looked for {looked}"
            raise DataError(msg)
        named += found
    splits = dict(reversed(named))
    if len(splits) < len(named):
        say(f"{len(named) - len(splits)} of {len(named)} shards are named twice; read once")
    if packed := [place for place in splits if place.lower().endswith((*ENDS, ".tgz"))]:
        tool = next((how for end, how in UNPACK.items() if packed[0].endswith(end)), "gzip -d")
        msg = f"{packed[0]}: is compressed, so that parts of it cannot be read; undo that: "
        msg += f"{tool} {packed[0]}"
        raise DataError(msg)
    places = [*dict.fromkeys(place for place, _ in named)]
    shards = _versions(places, cache_bytes)
    if not any(splits.values()):
        splits = _splits_by_name(places)
    return [(shards[place], splits[place]) for place in places if splits.get(place) is not None]


def _places(pattern: str, *, needed: bool = True) -> list[str]:
    """Return the paths or addresses that one pattern stands for; some of them need not be there."""
    found: list[str] = []
    is_folder: dict[str, bool] = {"": True}
    for each in expanded(pattern):
        if ADDRESS.match(each):
            found += _remote_places(each, needed=needed)
            continue
        parent = each.rpartition("/")[0]
        if parent not in is_folder:  # asked once, since there may be a million names
            is_folder[parent] = _is_folder(parent)
        if not (is_folder[parent] or needed):
            continue
        try:
            found += _local_places(each, needed=needed)
        except OSError as error:  # a name that is too long, a folder that may not be read
            msg = f"{each[:200]}: {reason_of(error)}"
            raise DataError(msg) from None
    return found


def _local_places(pattern: str, *, needed: bool) -> list[str]:
    mode = _mode(os.path.expanduser(pattern))  # noqa: PTH111 - faster than a Path
    if not (mode or needed or MAGIC.search(pattern)):
        return []
    path = Path(pattern).expanduser()
    if stat.S_ISDIR(mode):
        _check_finished(pattern, (path / UNFINISHED).exists())
        return [*map(str, files_below(path, TARS, what="shards"))]
    if mode or not MAGIC.search(pattern):
        return [str(path)]
    several = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - with **
    if not several and needed:
        msg = f"{pattern}: no shards there"
        raise DataError(msg)
    return several


def _is_folder(name: str) -> bool:
    """Whether a name is a folder's; of a pattern, nobody knows."""
    return bool(MAGIC.search(name)) or os.path.isdir(os.path.expanduser(name))  # noqa: PTH111, PTH112


def _mode(path: str) -> int:
    """Return what kind of file a path is; 0 if it is not there."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - as above
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return 0


def _check_finished(folder: str, unfinished: bool) -> None:
    """Refuse a folder of which some shards are not written yet.

    Raises:
        DataError: it is one.
    """
    if unfinished:
        msg = f"{folder}: not all shards are there yet; finish it: contrastive data shard"
        raise DataError(msg)


def _remote_places(address: str, *, needed: bool) -> list[str]:
    folder, _, name = address.rpartition("/")
    is_folder = not name.lower().endswith((*TARS, *ENDS, ".tgz")) and not MAGIC.search(name)
    if not is_folder and not MAGIC.search(name) and needed:
        return [address]
    parent = address.rstrip("/") if is_folder else folder
    if MAGIC.search(parent):
        msg = f"{address}: a pattern in a storage may be in the last part alone; list the others"
        raise DataError(msg)
    listed = remote_folder(parent).files()
    if listed is None:
        if not is_folder and not MAGIC.search(name):
            return [address] if remote_folder(parent).about(name) else []
        how = f"name them, as by {parent}/{{00000..00099}}.tar"
        msg = f"{address}: this storage lists no files; {how}"
        raise DataError(msg)
    _check_finished(parent, UNFINISHED in listed)
    fits = fnmatch.filter([*listed], "*.tar" if is_folder else name)
    if not fits and needed:
        msg = f"{address}: no shards there"
        raise DataError(msg)
    return [f"{parent}/{each}" for each in sorted(fits)]


def _versions(places: Sequence[str], cache_bytes: int) -> dict[str, Shard]:
    """Return the shards of files that have to be there."""
    found: dict[str, Shard] = {}
    remote: dict[str, list[str]] = {}
    for place in places:
        if ADDRESS.match(place):
            folder, _, name = place.rpartition("/")
            remote.setdefault(folder, []).append(name)
            continue
        try:
            check_regular(place)
            about = Path(place).stat()
        except FileNotFoundError:
            msg = f"{place}: no such file"
            raise DataError(msg) from None
        except OSError as error:
            msg = f"{place}: {reason_of(error)}"
            raise DataError(msg) from None
        found[place] = Shard(place, about.st_size, str(about.st_mtime_ns))
    for folder, names in remote.items():
        for name, about in _about(folder, names):
            place = f"{folder}/{name}"
            if about is None or about.size is None:
                what = "is not there" if about is None else "its storage does not say its size"
                msg = f"{place}: {what}"
                raise DataError(msg)
            found[place] = Shard(place, about.size, about.version, cache_bytes)
    return found


def _about(folder: str, names: Sequence[str]) -> Iterator[tuple[str, FileAbout | None]]:
    storage = remote_folder(folder)
    if (listed := storage.files()) is not None:
        yield from ((name, listed.get(name)) for name in names)
        return
    with ThreadPoolExecutor(ASKED_TOGETHER) as threads:
        yield from zip(names, threads.map(storage.about, names), strict=True)


def _splits_by_name(places: Sequence[str]) -> dict[str, str]:
    """Return the split that each shard's name or folder says; nothing for all, if none does.

    Where some do, the others are in no split, which is told.
    """
    found = {place: _split_in(place) for place in places}
    if not any(found.values()):
        return found
    if others := [place for place, split in found.items() if not split]:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        say(f"{others[0]}{more}: beside shards that are named by splits, left out")
    return {place: split for place, split in found.items() if split}


def _split_in(place: str) -> str:
    path = Path(place)
    words = [split for word in re.split(r"[-_.]", path.name) if (split := split_named(word))]
    return words[0] if words else split_named(path.parent.name) or ""
