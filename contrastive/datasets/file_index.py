"""The files below a folder, by whatever name tables have for them."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from unicodedata import normalize

from contrastive.data.column_kinds import FilePaths, Strings
from contrastive.data.images import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contrastive.data.column_kinds import Column

PLAIN = re.compile(r"[^/\\:.][^/\\:]*(/[^/\\:.][^/\\:]*)*")
"""Paths that are the same on every system and lead nowhere else, as most do."""


def leaves_folder(path: str) -> bool:
    """Say whether a path may lead out of its folder, on this system or another.

    Example:
        >>> leaves_folder("cats/1.png"), leaves_folder("../1.png")
        (False, True)
    """
    if "/" not in path or PLAIN.fullmatch(path):
        return False
    flavours = (PurePosixPath(path), PureWindowsPath(path))
    return any(flavour.anchor or ".." in flavour.parts for flavour in flavours)


class FileIndex:
    """The files below a folder; each folder is listed once, when it is first asked for.

    Names are compared in any Unicode form: a Mac's archive spells é as e and an accent. Those of
    images may lack their suffix.

    Example:
        >>> index = FileIndex(Path("photos"))
        >>> "red.png" in index, "pink.png" in index
        (True, False)
    """

    def __init__(self, folder: Path, places: Iterable[str] = ("",)) -> None:
        """Look for files in ``places`` below the folder, one after the other."""
        self.folder = folder
        self.places = [f"{place}/" if place else "" for place in places]
        self.inner = (*filter(None, self.places),)
        self.listings: dict[str, tuple[str, dict[str, str]]] = {}
        self.home = Path(os.path.realpath(folder))
        self.links: set[str] = set()
        self.parents: dict[str, tuple[Path, bool]] = {}
        self.names: dict[Path, str] = {}
        self.paths: dict[str, Path] = {}

    def __contains__(self, path: str) -> bool:
        return self.is_address(path) or self._found(path) is not None

    def __getitem__(self, path: str) -> Path:
        if path not in self.paths:  # one object for all captions of an image
            self.paths[path] = self.folder / (self._found(path) or path)
        return self.paths[path]

    def __str__(self) -> str:
        return str(self.folder)

    def is_usual(self, path: str) -> bool:
        """Whether a path is plainly the one name of a file, in a folder that is known by now."""
        if self.places[0] or path.startswith(self.inner):
            return False
        if not (path.isascii() and path.isprintable() and PLAIN.fullmatch(path)):
            return False
        parent, _, name = path.rpartition("/")
        spelling, files = self.listings.get(parent) or ("", {})
        _, is_own = self.parents.get(parent) or ("", False)
        return spelling == parent and is_own and files.get(name) == name and path not in self.links

    def name_of(self, path: str) -> str:
        """Return the one name of a file, whatever it is called: by a table, or through a link.

        Example:
            >>> FileIndex(Path("photos")).name_of("red")
            'red.png'
        """
        if self.is_address(path) or leaves_folder(path) or (found := self._found(path)) is None:
            return path
        parent, _, name = found.rpartition("/")
        if parent not in self.parents:
            real = Path(os.path.realpath(self.home / parent))
            self.parents[parent] = real, real == self.home / parent
        folder, is_own = self.parents[parent]
        if is_own and found not in self.links:
            return self._short(found)
        real = Path(os.path.realpath(folder / name))
        below = real.relative_to(self.home).as_posix() if real.is_relative_to(self.home) else ""
        if below and self._found(below) == below:
            return self._short(below)
        return self.names.setdefault(real, self._short(found))

    def place_of(self, path: str) -> str | None:
        """Return a file's path below the folder as the disk has it; None for no file."""
        return path if self.is_address(path) else self._found(path)

    def is_address(self, name: str) -> bool:
        """Whether a name is an address from which an image is fetched; here none is."""
        del name
        return False

    def column(self, places: Sequence[str | None]) -> Column:
        """Return the files at some places, as ``place_of`` gives them, as a column."""
        return FilePaths(self.folder, Strings.of(place or "" for place in places))

    def _short(self, found: str) -> str:
        """Return a file's path without the place, if it is found without."""
        names = (found.removeprefix(place) for place in self.places if found.startswith(place))
        fitting = (name for name in names if name == found or self._found(name) == found)
        short = min(fitting, key=len, default=found)
        usual = normalize("NFC", short)
        return usual if usual == short or self._found(usual) == found else short

    def _found(self, path: str) -> str | None:
        """Return a file's path as the disk has it, which may spell an accent otherwise (NFD)."""
        for suffix in ("", *SUFFIXES):
            for place in self.places:
                if found := self._listed(f"{place}{path}{suffix}"):
                    return found
        return None

    def _listed(self, path: str) -> str | None:
        parent, _, name = path.rpartition("/")
        if parent not in self.listings:
            self.listings[parent] = self._list(parent)
        spelling, files = self.listings[parent]
        if not (found := files.get(name)):
            usual = normalize("NFC", name)
            found = files.get(usual) or files.get(_with_lower_suffix(usual))
        return f"{spelling}/{found}" if found and spelling else found

    def _list(self, parent: str) -> tuple[str, dict[str, str]]:
        """Return a folder as it is spelt, and its files by name, and by the usual spelling."""
        for spelling in dict.fromkeys((parent, normalize("NFC", parent), normalize("NFD", parent))):
            try:
                with os.scandir(self.folder / spelling) as entries:
                    files = {entry.name: entry.is_symlink() for entry in entries if _is_file(entry)}
            except (OSError, ValueError):  # ValueError: a NUL in the path
                continue
            links = (name for name, is_link in files.items() if is_link)
            self.links.update(f"{spelling}/{name}" if spelling else name for name in links)
            usual = {normalize("NFC", name): name for name in files}
            upper = {name: file for name, file in usual.items() if not name.islower()}
            lower = {_with_lower_suffix(name): file for name, file in upper.items()}
            return spelling, lower | usual | {name: name for name in files}
        return parent, {}


def _with_lower_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or leads to one; a link that leads to itself does not."""
    try:
        return entry.is_file()
    except OSError:
        return False
