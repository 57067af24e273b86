"""Folders that somebody else filled: which files they hold, and one line for what goes wrong."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def readable_folder(folder: Path) -> Generator[None]:
    """Insist on a folder, and say in one line what cannot be read within this block.

    Raises:
        DataError: the folder is not there, or the system refuses something.

    Example:
        >>> with readable_folder(Path("photos")):
        ...     sorted(path.name for path in Path("photos").glob("*.png"))
        ['blue.png', 'green.png', 'red.png']
    """
    try:
        if not folder.is_dir():
            msg = f"{folder}: no such folder"
            raise DataError(msg)
        yield
    except OSError as error:
        msg = f"{error.filename or folder}: cannot be read: {error.strerror}"
        raise DataError(msg) from None


def too_large(size: int, most: int) -> str:
    """Return the problem of a file with more bytes than are read."""
    return f"{size:,} bytes are too many (limit {most:,})"


def read_bounded(path: Path, most: int) -> bytes:
    """Return what a regular file holds, if that is at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe or a device, which may never end.

    Example:
        >>> len(read_bounded(Path("texts.txt"), most=1000)) > 0
        True
    """
    with open(path, "rb", opener=_open_at_once) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if about.st_size > most:
            raise OSError(errno.EFBIG, too_large(about.st_size, most), str(path))
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for somebody who writes to it, if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def files_below(
    folder: Path, suffixes: tuple[str, ...], *, what: str, nested: bool = True
) -> list[Path]:
    """Return the files of a folder with some suffixes, in either case, sorted.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
        what: the files, for the message.
        nested: look in the folders in it, too.

    Raises:
        DataError: there is no such folder, it cannot be read, or it has no such file.
    """
    with readable_folder(folder):
        paths = folder.rglob("*") if nested else folder.iterdir()
        found = sorted(p for p in paths if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        msg = f"{folder}: no {what} here ({', '.join(suffixes)})"
        raise DataError(msg)
    return found


def check_writable(path: Path, suffixes: tuple[str, ...], *, what: str) -> None:
    """Insist that a file can be written to a path; ``what`` it holds is for the message.

    Raises:
        DataError: its ending names no format, or its folder is not there.
    """
    if path.suffix.lower() not in suffixes:
        msg = f"{path}: an unknown {what} format; end its name with one of {', '.join(suffixes)}"
        raise DataError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}"
        raise DataError(msg)
