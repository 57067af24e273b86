"""Locks between processes, by a file: those of filelock, with one kind of error."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

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
