"""Paths that a user names, and what they lead to: local, and never more than can be read.

Some places may be addresses, too (``s3://bucket/runs/a``): those of ``address_of``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

# a Path has lost the second slash of s3://bucket
ADDRESS = re.compile(
    r"\w[\w+.-]+://|(abfss?|adl|az|dbfs|file|ftp|gcs|gs|hdfs|https?|lakefs|memory|oci|oss|r2|s3a?|"
    r"sftp|smb|ssh|tos):/",
    re.IGNORECASE,
)

CREDENTIALS = re.compile(r"//[^/@\s]*:[^/@\s]*@|[?]")  # before the host, or in a signed query

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS has not fetched."""
UNSIZED = 1 << 16
"""Bytes that are read of a file whose size is told as less, as of those in /proc."""


def local_path(given: str | PathLike[str]) -> Path:
    """Return a path, the home folder put in for ~.

    Raises:
        ValueError: it is empty, or an address; or nobody knows that home folder.
    """
    text = os.fspath(given)
    if not text.strip():
        msg = "is empty; give a path"
        raise ValueError(msg)
    if ADDRESS.match(text):
        text = whole_address(text)
        msg = f"{text} is an address; only local files are read and written; give a local path"
        raise ValueError(msg)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        msg = f"{text}: there is no such home folder; write the whole path"
        raise ValueError(msg) from None


def address_of(given: str | PathLike[str]) -> str:
    """Return the address that is given, without a slash at its end; "" for a local path.

    Raises:
        ValueError: it has a password or a query, which would be shown and stored; or no folder.
    """
    text = os.fspath(given).strip()
    if not ADDRESS.match(text):
        return ""
    if CREDENTIALS.search(text):
        scheme = text.partition(":")[0]
        msg = (
            f"the {scheme}:// address has a password or a query, which would be stored with the "
            "run; leave it out, and give it where the library of that storage looks for it (its "
            "environment variables or files)"
        )
        raise ValueError(msg)
    address = whole_address(text).rstrip("/")
    if address.endswith(":"):
        msg = f"{text} has no folder; give one, such as s3://bucket/runs/a"
        raise ValueError(msg)
    return address


def whole_address(text: str) -> str:
    """Return an address with both slashes after its colon, and a third one for a local file."""
    slashes = ":///" if text.lower().startswith("file:") else "://"
    return re.sub(":/+", slashes, text, count=1)


def cache_folder() -> Path:
    """Return ``$CONTRASTIVE_CACHE``, or ``contrastive`` in the user's cache folder.

    Raises:
        ValueError: it is an address; or this user has no home folder.
    """
    if folder := os.environ.get("CONTRASTIVE_CACHE"):
        return local_path(folder)
    return local_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "contrastive"


def read_bounded(path: str | PathLike[str], most: int) -> bytes:
    """Return what a regular file holds, if that is at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is larger, is a pipe or a device, which may never end, or only
            points to the file.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        size = _size(path, os.fstat(file.fileno()))
        if size > most:
            raise OSError(errno.EFBIG, too_large(size, most), os.fspath(path))
        content = file.read(min(most, max(size, UNSIZED)) + 1)  # for which memory is taken first
    _check_content(path, content)
    return content


def check_regular(path: str | PathLike[str]) -> int:
    """Return the size of a regular file, for libraries that open it themselves.

    Raises:
        OSError: it is not there, is a pipe or a device, which may never end, or only points to
            the file.
    """
    size = _size(path, Path(path).stat())
    if size < UNSIZED:
        with open(path, "rb", opener=_open_at_once) as file:
            _check_content(path, file.read(len(POINTER)))
    return size


def _check_content(path: str | PathLike[str], content: bytes) -> None:
    if content.startswith(POINTER):
        what = "is a pointer of Git LFS, not the file; run in its folder: git lfs pull"
        raise OSError(errno.EINVAL, what, os.fspath(path))


def _size(path: str | PathLike[str], about: os.stat_result) -> int:
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", os.fspath(path))
    return about.st_size


def too_large(size: int, most: int) -> str:
    """Return the problem of a file with more bytes than are read."""
    return f"{size:,} bytes are too many (limit {most:,})"


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; if it is a pipe, without waiting for somebody who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
