"""Folders that somebody else filled: which files they hold, and one line for what goes wrong."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from contrastive.console import say_omission
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


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
    found: list[Path] = []
    with readable_folder(folder):
        for parent, _, names in os.walk(folder, onerror=_left_out_of(folder)):
            for path in (Path(parent, name) for name in names):
                if path.suffix.lower() not in suffixes:
                    continue
                if path.is_file():
                    found.append(path)
                else:
                    say_omission(f"{path}: is no regular file, or leads to none; left out")
            if not nested:
                break
    if not found:
        msg = f"{folder}: no {what} here ({', '.join(suffixes)})"
        raise DataError(msg)
    return sorted(found)


def _left_out_of(top: Path) -> Callable[[OSError], None]:
    """Return what tells that a folder cannot be listed; the first one is nobody's to leave out."""

    def tell(error: OSError) -> None:
        if str(error.filename) == str(top):
            raise error
        say_omission(f"{error.filename}: cannot be read: {error.strerror}; its files are left out")

    return tell


def check_writable(path: Path, suffixes: tuple[str, ...] = (), *, what: str) -> None:
    """Insist that a file can be written to a path; ``what`` it holds is for the message.

    Raises:
        DataError: its ending names no format (if only some are), its folder is not there, or it is
            something else than a file or may not be written.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        msg = f"{path}: an unknown {what} format; end its name with one of {', '.join(suffixes)}"
        raise DataError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}"
        raise DataError(msg)
    if path.exists() and not path.is_file():
        problem = "is a folder" if path.is_dir() else "is no file"
    elif path.exists() and not os.access(path, os.W_OK):
        problem = "may not be written"
    else:
        try:  # a read-only disk, a quota: only a file tells
            with TemporaryFile(dir=path.parent):
                return
        except OSError as error:
            problem = f"cannot be written: {error.strerror}"
    msg = f"{path}: {problem}; name another file for the {what}"
    raise DataError(msg)


def check_writable_folder(folder: Path, *, what: str) -> None:
    """Insist that files can be written to a folder, which may not be there yet.

    Raises:
        DataError: it, or the folder that it would be made in, is something else or not writable.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with TemporaryFile(dir=there):
            return
    except OSError as error:
        msg = f"{folder}: cannot be written: {error.strerror}; name another folder for the {what}"
        raise DataError(msg) from None
