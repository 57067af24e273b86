"""From names of images as tables have them to paths below the folder of images."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from contrastive.config.local_files import ADDRESS
from contrastive.datasets.file_index import PLAIN, leaves_folder
from contrastive.datasets.quoting import quoted

if TYPE_CHECKING:
    from contrastive.datasets.file_index import FileIndex

LOCAL = "file:///"
ADDRESSED = (
    "its image is a URL, of which those of http and https alone are fetched; download the images, "
    "and give their folder"
)
INSIDE = (
    "its image is not the name of a file but base64; write base64.b64decode of it to a file, and "
    "that file's name in its place"
)
BASE64 = re.compile(r"data:image/.*|[A-Za-z0-9+/\s]{200,}=*", re.DOTALL)  # no name: without dots


def image_problem(name: str) -> str:
    """Return why a cell names no file at all, or nothing."""
    if BASE64.fullmatch(name):
        return INSIDE
    return ADDRESSED if ADDRESS.match(name) and not name.lower().startswith(LOCAL) else ""


def image_path(images: FileIndex, parent: str, name: str) -> str:
    """Return the path of an image below the folder; as it is named, if it lies elsewhere.

    A name may be a path on this machine, be written on Windows or for a URL, and begin with the
    folder's own name.
    """
    if PLAIN.fullmatch(name) and (path := f"{parent}{name}") in images:
        return path
    if name.lower().startswith(LOCAL):
        name = unquote(name[len(LOCAL) - 1 :])
    if "\\" in name and "/" not in name:
        name = PureWindowsPath(name).as_posix()
    if PurePath(name).is_absolute():
        for folder in (images.folder.absolute(), images.folder.resolve()):
            with suppress(ValueError):
                return PurePath(name).relative_to(folder).as_posix()
        return name
    path = f"{parent}{PurePosixPath(name)}"
    if leaves_folder(path) or path in images:
        return path
    if "%" in path and unquote(path) in images:
        return unquote(path)
    return _without_own_folder(images, path)


def _without_own_folder(images: FileIndex, path: str) -> str:
    parts, own = PurePosixPath(path).parts, Path(images.home).parts
    for count in range(1, len(parts)):
        if parts[:count] == own[-count:] and (short := "/".join(parts[count:])) in images:
            return short
    return path


def outside_problem(images: FileIndex, path: str, given: str) -> str:
    """Return the problem of a path that leaves the folder, with what to take off it, or nothing.

    ``given`` is the path as the table has it.
    """
    if not leaves_folder(path):
        return ""
    problem = f"image {quoted(path)} is outside the folder"
    parts = PurePosixPath(path).parts
    for count in range(1, len(parts)):
        short = "/".join(parts[count:])
        if not leaves_folder(short) and short in images:
            return f"{problem}; take '{given[: -len(short)]}' off the names"
    return problem
