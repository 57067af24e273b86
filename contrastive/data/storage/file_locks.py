"""Locks between processes, by a file: those of filelock, with one kind of error."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if os.name == "posix":
    import fcntl
else:  # where a file that is open cannot be deleted
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def locked(path: Path, *, wait: float) -> Generator[None]:
    """Hold a lock within a block; ``path`` is emptied.

    Raises:
        TimeoutError: another process has held it for ``wait`` seconds.
        OSError: it cannot be locked, as on a network disk that has no locks.
    """
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        msg = "is locked by another process"
        raise TimeoutError(errno.ETIMEDOUT, msg, str(path)) from None
    except (OSError, NotImplementedError) as error:  # the latter of older releases
        code = getattr(error, "errno", None) or errno.ENOSYS
        msg = f"cannot be locked: {os.strerror(code)}"
        raise OSError(code, msg, str(path)) from None
    try:
        yield
    finally:
        lock.release()


class InUse:
    """Says to other processes that a file is in use, until it is closed or dropped.

    Example:
        >>> path = Path("encoder.json"); _ = path.write_text("{}")
        >>> use = InUse(path, wait=1)
        >>> with unused(path) as free: print(free)
        False
        >>> use.close()
        >>> with unused(path) as free: print(free)
        True
    """

    def __init__(self, path: Path, *, wait: float) -> None:
        """Mark ``path``; where a disk has no locks, nothing is said.

        Raises:
            FileNotFoundError: it is not there, or another process has just deleted it.
            TimeoutError: another process has kept it to itself for ``wait`` seconds.
            OSError: it cannot be opened.
        """
        self._descriptor: int | None = _open(path, os.O_RDONLY)
        until = time.monotonic() + wait
        while not _lock(self._descriptor, exclusive=False):
            if time.monotonic() > until:
                self.close()
                raise TimeoutError(errno.ETIMEDOUT, "is locked by another process", str(path))
            time.sleep(PAUSE)
        if not _is_still(path, self._descriptor):
            self.close()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def close(self) -> None:
        """Say that it is no longer in use."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()


@contextmanager
def unused(path: Path) -> Generator[bool]:
    """Give whether no process uses a file; if so, none begins to within the block.

    Where that cannot be known, it is taken as in use.
    """
    try:
        if fcntl is None:
            os.rename(path, path)  # noqa: PTH104  (refused while anyone has it open)
            yield True
            return
        descriptor = _open(path, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor, exclusive=True, unknown=False) and _is_still(path, descriptor)
    finally:
        os.close(descriptor)


PAUSE = 0.05  # seconds between two attempts to lock


def _open(path: Path, how: int) -> int:
    return os.open(path, how | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that has the name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, exclusive: bool, unknown: bool = True) -> bool:
    """Try to lock a file until it is closed; ``unknown`` is for a system that has no such locks."""
    if fcntl is None:
        return unknown
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else unknown
    return True
