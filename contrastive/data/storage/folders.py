"""Folders that somebody else filled: which files they hold, and one line for what goes wrong."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from contrastive.console import say, say_omission
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence


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
            packed = folder.name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))
            what = f"is a file; {'unpack it, and give that' if packed else 'give its'} folder"
            msg = f"{folder}: {what if folder.is_file() else 'no such folder'}"
            raise DataError(msg)
        yield
    except OSError as error:
        msg = f"{error.filename or folder}: cannot be read: {error.strerror}"
        raise DataError(msg) from None


def files_below(
    folder: Path,
    suffixes: tuple[str, ...],
    *,
    what: str,
    others: tuple[str, ...] = (),
    nested: bool = True,
) -> list[Path]:
    """Return the files of a folder with some suffixes, in either case, sorted.

    Hidden files and folders, and those of archives and thumbnails, are left out, and that is told.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.
        what: the files, for the message.
        others: suffixes of such files that cannot be read, which is told.
        nested: look in the folders in it, too.

    Raises:
        DataError: there is no such folder, it cannot be read, or it has no such file.
    """
    found: list[Path] = []
    hidden: list[Path] = []
    unread: list[Path] = []
    with readable_folder(folder):
        for parent, folders, names in folders_below(folder, onerror=_left_out_of(folder)):
            if nested:
                hidden += [parent / name for name in folders if is_hidden(name)]
            for path in (parent / name for name in names):
                if path.suffix.lower() not in suffixes:
                    if path.suffix.lower() in others and not is_hidden(path.name):
                        unread.append(path)
                    continue
                if is_hidden(path.name):
                    hidden.append(path)
                elif path.is_file():
                    found.append(path)
                else:
                    say_omission(f"{path}: is no regular file, or leads to none; left out")
            if not nested:
                break
    if hidden:
        say(f"{first_of(hidden)}: hidden, left out")
    if unread:
        say_omission(
            f"{first_of(unread)}: not {', '.join(suffixes[:-1])} or {suffixes[-1]}; left out"
        )
    if not found:
        msg = f"{folder}: no {what} here ({', '.join(suffixes)})"
        raise DataError(msg)
    return sorted(found)


def first_of(paths: Sequence[Path | str]) -> str:
    """Return the first of some paths, and how many more there are.

    Example:
        >>> first_of(["b.png", "a.png"])
        'a.png and 1 more'
    """
    return f"{min(map(str, paths))}{f' and {len(paths) - 1} more' if paths[1:] else ''}"


def folders_below(
    top: Path, *, onerror: Callable[[OSError], None] | None = None, tell: bool = True
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield a folder, and those below that are not hidden, with the names of folders and files.

    Links to folders elsewhere are followed. Each folder is read once, so that circles of links end;
    a link that leads to what is read anyway is left out, and that is told.
    """
    home = Path(os.path.realpath(top))
    known = {home}
    for parent, folders, names in os.walk(top, onerror=onerror, followlinks=True):
        yield Path(parent), folders, names
        below = [Path(parent, name) for name in sorted(folders) if not is_hidden(name)]
        folders.clear()
        for path in below:
            real = Path(os.path.realpath(path))
            if real in known or (path.is_symlink() and real.is_relative_to(home)):
                if tell:
                    say(f"{path}: leads to {real}, which is read where it is; left out")
                continue
            known.add(real)
            folders.append(path.name)


def is_hidden(name: str) -> bool:
    """Whether a program put this beside a user's files: .ipynb_checkpoints, a Mac's ._photo.jpg."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _left_out_of(top: Path) -> Callable[[OSError], None]:
    """Return what tells that a folder cannot be listed; the first one is nobody's to leave out."""

    def tell(error: OSError) -> None:
        if str(error.filename) == str(top):
            raise error
        say_omission(f"{error.filename}: cannot be read: {error.strerror}; its files are left out")

    return tell


@contextmanager
def named_file(path: Path) -> Generator[None]:
    """Name the file in what the system says when it cannot be written to its end.

    A full disk tells no name, since it is met after the file was opened.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


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
    elif not (problem := _refusal(path.parent)):
        return
    msg = f"{path}: {problem}; name another file for the {what}"
    raise DataError(msg)


def check_writable_folder(path: Path, *, what: str) -> None:
    """Insist that files can be written to a folder, which need not be there yet.

    Raises:
        DataError: they cannot; ``what`` it is for is said.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    problem = "is no folder" if not there.is_dir() else _refusal(there)
    if problem:
        msg = f"{there}: {problem}; name another folder for the {what}"
        raise DataError(msg)


def _refusal(folder: Path) -> str:
    """Return why no file can be written to a folder; "" if one can."""
    try:  # a read-only disk, a quota: only a file tells
        with TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"cannot be written: {error.strerror}"
