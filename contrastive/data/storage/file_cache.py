"""Local copies of remote files, in a folder of bounded size that processes share.

One process fetches a file while the others wait for it. What was used longest ago goes when there
is no room, but never what a process has open: by as much, the folder may be larger than its bound.
Whoever looks for a file sees it whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from contrastive.config.local_files import cache_folder
from contrastive.console import say
from contrastive.data.storage.atomic_files import flush_folder, has_ended
from contrastive.data.storage.file_locks import locked
from contrastive.data.storage.remote_folders import LOCAL_DISK, StorageError
from contrastive.errors import reason_of

try:
    import fcntl as file_control
except ImportError:  # Windows, where a file that is open cannot be removed
    file_control = None

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from io import BufferedReader
    from pathlib import Path

fcntl: Any = file_control  # whose names type checkers know on some systems alone
LONGEST_WAIT = 3600.0  # seconds, for a file that another process fetches
LOCKS = 256  # files that may be fetched at a time
TOUCHED_WITHIN = 30.0  # seconds; a use is noted as often
ABANDONED = 60.0  # seconds without a byte, of a file that a process fetched which has ended
MANY = 1000  # files; with more, room is made for several at once, since each look takes long
DIGEST = hashlib.sha256().digest_size
OTHER_DISK = "set CONTRASTIVE_CACHE to a folder on a larger disk"
DIGITS = re.compile(r"[0-9a-f]{2}")
"""The names of the folders of copies."""
_COPY = re.compile(r"[0-9a-f]{62}")
_FETCHED = re.compile(r"[0-9]{1,10}-[0-9]+-[0-9a-f]{1,16}.*")
_numbers = count()
_unkept: set[Path] = set()
"""Folders of which it is told that nothing can be kept there."""


@dataclass(frozen=True)
class FileCache:
    """Copies of files in a folder, of at most so many bytes together.

    Example:
        >>> files = FileCache(Path("copies"), max_bytes=10**9)
        >>> files.content("https://example.org/a.png, version 1", lambda: b"what it holds")
        b'what it holds'
        >>> files.content("https://example.org/a.png, version 1", lambda: b"is not fetched again")
        b'what it holds'
    """

    folder: Path
    max_bytes: int

    @contextmanager
    def opened(
        self, key: str, fetch: Callable[[Path], None], *, size: int, name: str
    ) -> Generator[BufferedReader]:
        """Open the copy of a large file for a block, in which it stays.

        Args:
            key: the file's address and what tells its versions apart, since a copy is kept as long
                as there is room.
            fetch: writes the file to the path that it is given; called if there is no copy.
            size: of the file.
            name: of the file, for messages.

        Raises:
            StorageError: it has another size, there is no room for it, or ``fetch`` has raised it.
        """
        path = self._path(key)
        with self._told(name):
            if (file := _opened(path, size)) is None:
                with locked(self._lock(path), wait=LONGEST_WAIT):
                    file = _opened(path, size) or self._fetched(path, fetch, size, name)
        with file:
            _touch(path, file)
            yield file

    def content(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """Return what a small file holds; ``fetch`` is called if there is no copy.

        A copy that the disk has damaged is fetched again. Where none can be written, that is told,
        and the file is fetched each time.
        """
        path = self._path(key)
        if (found := _content(path)) is not None:
            return found
        with ExitStack() as lock:
            try:
                lock.enter_context(locked(self._lock(path), wait=LONGEST_WAIT))
            except OSError as error:
                self._tell_unkept(error)
            if (found := _content(path)) is not None:
                return found
            found = fetch()
            try:
                self._admit(DIGEST + len(found))
                building = self._building(path)
                # not flushed to the disk: what a crash tears is seen by its digest
                building.write_bytes(hashlib.sha256(found).digest() + found)
                building.replace(path)
            except OSError as error:
                self._tell_unkept(error)
        return found

    def _tell_unkept(self, error: OSError) -> None:
        if self.folder not in _unkept:
            _unkept.add(self.folder)
            say(f"{self.folder}: no copies are kept ({reason_of(error)}); {OTHER_DISK}")

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _lock(self, path: Path) -> Path:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{int(path.parent.name, 16) % LOCKS:02x}"

    def _building(self, path: Path) -> Path:
        """Return a new place for what is fetched; the folder of its own place is there, too."""
        incoming = self.folder / "incoming"
        for folder in (incoming, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        return incoming / f"{os.getpid()}-{next(_numbers)}-{path.name[:16]}"

    def _fetched(
        self, path: Path, fetch: Callable[[Path], None], size: int, name: str
    ) -> BufferedReader:
        """Fetch a file to its place, and open it."""
        if size > self.max_bytes:
            may = f"the copies of files may have {self.max_bytes:,} together"
            msg = f"{name}: has {size:,} bytes, and {may}"
            raise StorageError(msg)
        self._admit(size)
        building = self._building(path)
        try:
            try:
                fetch(building)
            except (OSError, StorageError) as error:
                if not _is_full(error):
                    raise
                with self._counted():
                    self._evict(free=size)
                fetch(building)
            if (got := building.stat().st_size) != size:
                msg = f"{name}: {got:,} bytes came of {size:,}"
                raise StorageError(msg)
            with building.open("rb+") as whole:
                os.fsync(whole.fileno())
            with self._counted():  # nobody makes room between the two
                building.replace(path)
                file = _opened(path, size)
            flush_folder(path.parent)
        finally:
            with suppress(OSError):
                building.unlink(missing_ok=True)
        if file is None:
            msg = f"{name}: its copy {path} was removed by another program"
            raise StorageError(msg)
        return file

    def _admit(self, size: int) -> None:
        """Count so many bytes more, after making room for them if need be."""
        with self._counted():
            note = self.folder / "bytes"
            try:
                total = int(note.read_text(encoding="ascii"))
            except (OSError, ValueError):
                total = self.max_bytes  # so that they are counted
            if total + size > self.max_bytes:
                total = self._evict(most=self.max_bytes - size)
            note.write_text(str(total + size), encoding="ascii")

    @contextmanager
    def _counted(self) -> Generator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "bytes.lock", wait=LONGEST_WAIT):
            yield

    def _evict(self, *, most: int | None = None, free: int = 0) -> int:
        """Remove what was used longest ago; return the bytes of what stays.

        Args:
            most: bytes that may stay.
            free: bytes that have to go, if ``most`` does not say it.
        """
        found = [*copies_in(self.folder)]
        total = sum(size for _, size, _ in found)
        for _, size, path, is_abandoned in _incoming(self.folder / "incoming"):
            with suppress(OSError):
                if is_abandoned:
                    os.unlink(path)  # noqa: PTH108 - of a scan that has no paths
                    continue
            total += size
        most = total - free if most is None else most
        if len(found) > MANY and total > most:
            most -= self.max_bytes // 16
        for _, size, path in sorted(found):
            if total <= most:
                break
            if _removed(path):
                total -= size
        return total

    @contextmanager
    def _told(self, name: str) -> Generator[None]:
        """Say in one line what the disk refuses.

        Raises:
            StorageError: it does.
        """
        try:
            yield
        except OSError as error:
            remedy = "" if isinstance(error, TimeoutError) else f"; {OTHER_DISK}"
            place = error.filename or self.folder
            msg = f"{name}: cannot be kept in {place}: {reason_of(error)}{remedy}"
            raise StorageError(msg) from error
        except StorageError as error:
            if not _is_full(error):
                raise
            msg = f"{error}; {OTHER_DISK}"
            raise StorageError(msg) from error


def file_cache(max_bytes: int) -> FileCache:
    """Return the copies of files in this user's cache folder.

    Raises:
        StorageError: there can be no such folder.
    """
    try:
        return FileCache(cache_folder() / "files", max_bytes)
    except ValueError as error:
        msg = f"the cache folder: {error}"
        raise StorageError(msg) from None


def copies_in(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Yield when each copy in a folder was used last, its size and its path.

    What has not the name of a copy, and what a link leads to, is not ours.
    """
    for digits in _entries(folder):
        if DIGITS.fullmatch(digits.name) and digits.is_dir(follow_symlinks=False):
            yield from _files(digits.path, _COPY)


def _incoming(folder: Path) -> Iterator[tuple[float, int, str, bool]]:
    """Yield the same of what is being fetched, and whether nobody will finish it."""
    if not folder.is_symlink():
        for touched, size, path in _files(folder, _FETCHED):
            yield touched, size, path, _is_abandoned(os.path.basename(path), touched)  # noqa: PTH119


def _files(folder: str | Path, names: re.Pattern[str]) -> Iterator[tuple[float, int, str]]:
    for entry in _entries(folder):
        with suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if names.fullmatch(entry.name) and stat.S_ISREG(about.st_mode):
                yield about.st_mtime, about.st_size, entry.path


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with suppress(OSError):
        return [*os.scandir(folder)]
    return []


def _opened(path: Path, size: int) -> BufferedReader | None:
    """Open a copy that is whole, so that it stays; None if there is none."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if fcntl:
        with suppress(OSError):  # a disk without locks; what is removed there can still be read
            fcntl.flock(file, fcntl.LOCK_SH)
    about = os.fstat(file.fileno())
    if about.st_nlink and about.st_size == size and stat.S_ISREG(about.st_mode):
        return file
    file.close()
    return None


def _content(path: Path) -> bytes | None:
    with suppress(OSError):
        held = path.read_bytes()
        if hashlib.sha256(held[DIGEST:]).digest() == held[:DIGEST]:
            with path.open("rb") as file:
                _touch(path, file)
            return held[DIGEST:]
    return None


def _touch(path: Path, file: BufferedReader) -> None:
    """Note that a copy is used."""
    if time.time() - os.fstat(file.fileno()).st_mtime > TOUCHED_WITHIN:
        with suppress(OSError):
            os.utime(path)


def _removed(path: str) -> bool:
    """Remove a copy, unless it is in use; return whether it is gone."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - of a scan that has no paths
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # noqa: PTH108
                return True
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _is_abandoned(name: str, touched: float) -> bool:
    """Whether what is being fetched will not be finished."""
    idle = time.time() - touched
    pid = int(name.partition("-")[0])
    ended = pid != os.getpid() and has_ended(pid)
    return idle > LONGEST_WAIT or (ended and idle > ABANDONED)


def _is_full(error: BaseException) -> bool:
    """Whether the disk of the copies has no room."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in LOCAL_DISK - {errno.EROFS}
