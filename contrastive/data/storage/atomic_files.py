"""Files and folders that change as one step: whoever looks sees the old or the new, whole.

What is built lies beside its place as ``.NAME.PID.tmp``, what is dropped as ``.NAME.PID.old``, so
that whoever comes after a crash knows whose it was.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

BUILT, DROPPED = ".tmp", ".old"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]{1,10})(?:-[0-9]+)?\.(?:old|tmp)")
_CURRENT_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
"""What a kernel, a disk or a sandbox without exchange answers."""


def write(path: Path, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a new file to the disk, piece by piece; what the system says names it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        for piece in pieces:
            write_all(descriptor, piece)
        os.fsync(descriptor)
    except OSError as error:  # a full disk tells no name
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(descriptor)


_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows would change the ends of lines


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data``, of which one call may write a part."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file; one process at a time, which sweeps up what a killed one left."""
    building = path.with_name(f".{path.name}{BUILT}")
    try:
        write(building, [data])
        building.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        if error.filename == str(building):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            building.unlink(missing_ok=True)


def link(path: Path, new: Path) -> None:
    """Give a file a second name, or copy it on a disk without hard links."""
    try:
        new.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, new)
        with new.open("rb+") as copied:
            os.fsync(copied.fileno())


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is flushed anyway
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def beside(path: Path, kind: str) -> Path:
    """Return a new name for what this process builds for a place, or drops from it."""
    own = f".{path.name}.{os.getpid()}"
    names = (path.with_name(f"{own}{f'-{i}' if i else ''}{kind}") for i in range(1000))
    return next(name for name in names if not os.path.lexists(name))


def leftovers(folder: Path) -> list[tuple[Path, Path]]:
    """Return what processes that have ended left in a folder, each with the place it was for."""
    found: list[tuple[Path, Path]] = []
    paths: list[Path] = []
    with suppress(OSError):
        paths = sorted(folder.iterdir())
    for path in paths:
        match = _LEFTOVER.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink() and has_ended(int(match["pid"])):
            found.append((path, folder / match["name"]))
    return sorted(found, key=lambda pair: pair[0].suffix)  # what was dropped before what was built


def sweep(folder: Path) -> None:
    """Remove the files that processes which have ended were building in a folder."""
    for path in folder.glob(f".*{BUILT}"):
        match = _LEFTOVER.fullmatch(path.name)
        if match and int(match["pid"]) != os.getpid() and has_ended(int(match["pid"])):
            with suppress(OSError):
                path.unlink()


def put(building: Path, folder: Path) -> Path | None:
    """Let ``building`` take the place of ``folder``; return where the one before is now.

    Raises:
        OSError: it could not; then the one before is in its place.
    """
    if not os.path.lexists(folder):
        building.rename(folder)
        before = None
    else:
        before = _swap(building, folder)
    try:
        flush_folder(folder.parent)
    except BaseException:
        if before:
            _swap(before, folder)
        raise
    return before


def discard(folder: Path, files: Collection[str], *, last: str, into: Path | None = None) -> None:
    """Delete the files of a folder, ``last`` of which says that it is whole, and the folder.

    What else is in it moves into another folder. If it cannot, or if there is none, all stays.
    """
    with suppress(OSError):
        inner = {name.partition("/")[0] for name in files if "/" in name}
        others = [path for path in folder.iterdir() if path.name not in {*files, *inner, last}]
        for path in others:
            if into is None or os.path.lexists(into / path.name):
                return
            path.rename(into / path.name)
        for name in (last, *sorted({*files} - {last})):
            (folder / name).unlink(missing_ok=True)
        for name in inner:  # what somebody has put there stays, and the folders around it
            folders = [
                folder / name,
                *(path for path in (folder / name).rglob("*") if path.is_dir()),
            ]
            for path in sorted(folders, reverse=True):
                with suppress(OSError):
                    path.rmdir()
        folder.rmdir()


def _swap(new: Path, folder: Path) -> Path:
    """Put ``new`` into the place of ``folder``; return where that one is now."""
    if _exchange(new, folder):
        return new
    aside = beside(folder, DROPPED)
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    return aside


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; return False where that does not exist."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if _LINUX else None
    if rename is None:
        return False
    at = ctypes.c_int(_CURRENT_FOLDER)
    if not rename(at, os.fsencode(a), at, os.fsencode(b), ctypes.c_uint(_EXCHANGE)):
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(a), None, str(b))


_LINUX = sys.platform == "linux"


def has_ended(pid: int) -> bool:
    """Whether a process of this machine is gone; this one has left nothing that it still needs."""
    if pid == os.getpid():
        return True
    if os.name != "posix":  # os.kill would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process of Linux has ended and its parent, such as a container's, has not asked."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        return state.split()[:1] == ["Z"]
    return False
