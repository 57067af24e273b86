"""From captions as files have them to samples: ids, splits, and a report of what is left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload
from unicodedata import normalize

from contrastive.config.garbage import garbage_later
from contrastive.data.bad_rows import BadRows
from contrastive.data.images import SUFFIXES
from contrastive.datasets.caption_markup import tell_of_markup
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.splits import those_there
from contrastive.datasets.text_decoding import text_problem
from contrastive.errors import DataError, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contrastive.data.images import ImageSource
    from contrastive.data.samples import Sample


PLAIN = re.compile(r"[^/\\:.][^/\\:]*(/[^/\\:.][^/\\:]*)*")
"""Paths that are the same on every system and lead nowhere else, as most do."""


class Row(NamedTuple):
    """One caption of one image, or the report of why it is not one."""

    source: str
    """Its place, such as ``captions.csv:17``."""
    image: str = ""
    """Path below the folder of images, with ``/``."""
    text: str = ""
    split: str | None = None
    """Empty if the image is in none; None if that cannot be known: a fault of every split."""
    group: str = ""
    """Rows of one group are positives of each other; the image if empty."""
    label: str = ""
    problem: str = ""
    """Why it is left out, if it is."""
    note: str = ""
    """What is reported of a row that is used all the same."""


class Pair(NamedTuple):
    """One good row."""

    image: str
    text: str
    id: int
    source: str
    label: str


class Images(Protocol):
    """Images by the name that rows have for them; ``str`` says where they are."""

    def __contains__(self, name: str, /) -> bool:
        """Say whether there is such an image."""
        ...

    def __getitem__(self, name: str, /) -> ImageSource:
        """Return an image, as cheaply as can be: its path, or where it is stored."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Rows of images and captions, by index."""

    images: Images
    pairs: list[Pair]
    bad_rows: BadRows
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int, /) -> Sample: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[Sample]: ...

    def __getitem__(self, index: int | slice, /) -> Sample | list[Sample]:
        """Return one row, or a list of them; nothing is decoded."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        pair = self.pairs[index]
        sample: Sample = {
            "image": self.images[pair.image],
            "text": pair.text,
            "id": pair.id,
            "source": pair.source,
        }
        return sample | {"label": pair.label} if pair.label else sample


@garbage_later()
def gather(
    rows: Iterable[Row],
    *,
    split: str,
    images: Images,
    origin: Path | str,
    splits: Iterable[str] = (),
    captions_per_image: int | None = None,
    max_bad: float = 0.01,
) -> Pairs:
    """Choose the rows of a split and judge them.

    Ids count groups in the order of the rows, those of other splits too, so that a group has the
    same id in every split.

    Args:
        rows: all rows, of all splits.
        split: a name, or several joined by ``+``.
        images: holds the rows' images.
        origin: the file, folder or repository that messages should name.
        splits: names that exist even if no row has them.
        captions_per_image: keep the first so many good ones.
        max_bad: share of the rows that may be left out.

    Raises:
        DataError: an empty split, or too many bad rows.
        UnknownSplit: there is no such split.
    """
    wanted = {name.strip() for name in split.split("+")}
    known = set(splits)
    bad_rows = BadRows(budget=max_bad)
    ids: dict[str, int] = {}
    labels: set[str] = set()
    taken: Counter[str] = Counter()
    missing: dict[str, str] = {}
    pairs: list[Pair] = []
    is_there = cache(images.__contains__)
    for row in rows:
        known.add(row.split or "")
        labels.add(row.label)
        id_ = ids.setdefault(row.group or row.image, len(ids)) if row.image else -1
        if row.split is not None and row.split not in wanted:
            continue
        if problem := row.problem or _flaw_of(row):
            bad_rows.report(row.source, problem)
            continue
        if row.note:
            bad_rows.report(row.source, row.note, rows=0)
        if taken[row.image] == captions_per_image:
            continue
        taken[row.image] += 1
        if not is_there(row.image):
            missing.setdefault(row.image, row.source)
            continue
        pairs.append(Pair(row.image, row.text.strip(), id_, row.source, row.label))
    if missing and not pairs and not bad_rows.bad:
        image, source = next(iter(missing.items()))
        msg = (
            f"{source}: image {quoted(image)} is not in {images}, nor is any other of split "
            f"{quoted(split)}; set images to their folder"
        )
        raise DataError(msg)
    for image, source in missing.items():
        bad_rows.report(source, f"image {quoted(image)} is not in {images}", rows=taken[image])
    known.discard("")
    if known and (unknown := wanted - known):
        msg = f"{origin}: no split {name_list(sorted(unknown))}; {those_there(unknown, known)}"
        raise UnknownSplit(msg)
    bad_rows.check(len(pairs) + bad_rows.bad)
    if not pairs:
        why = f": {bad_rows.lines[0]}" if bad_rows.lines else ""
        msg = f"{origin}: no samples in split {quoted(split)}{why}"
        raise DataError(msg)
    classes = tuple(sorted(labels - {""}))
    tell_of_alike(classes, origin)
    tell_of_markup(((pair.text, pair.source) for pair in pairs), origin)
    return Pairs(images, pairs, bad_rows, classes)


def _flaw_of(row: Row) -> str:
    first, last = _flaws_of_names(row.image, row.group, row.label, row.split or "")
    if not first and (flaw := text_problem(row.text)):
        return f"the caption {flaw}"
    return first or last


@lru_cache(1 << 10)  # since the captions of an image mostly follow each other
def _flaws_of_names(image: str, group: str, label: str, split: str) -> tuple[str, str]:
    """Return what is told before a caption's own flaw, and what after it."""
    if flaw := text_problem(image):
        return f"the image name {flaw}", ""
    for what, text in (("group", group), ("label", label), ("split", split)):
        if text and (flaw := text_problem(text)):
            return "", f"the {what} {flaw}"
    return "", f"image {quoted(image)} is outside the folder" if leaves_folder(image) else ""


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
        self.listings: dict[str, dict[str, str]] = {}
        self.home = Path(os.path.realpath(folder))
        self.links: set[str] = set()
        self.parents: dict[str, tuple[Path, bool]] = {}
        self.names: dict[Path, str] = {}
        self.paths: dict[str, Path] = {}

    def __contains__(self, path: str) -> bool:
        return self._found(path) is not None

    def __getitem__(self, path: str) -> Path:
        if path not in self.paths:  # one object for all captions of an image
            self.paths[path] = self.folder / (self._found(path) or path)
        return self.paths[path]

    def __str__(self) -> str:
        return str(self.folder)

    def name_of(self, path: str) -> str:
        """Return the one name of a file, whatever it is called: by a table, or through a link.

        Example:
            >>> FileIndex(Path("photos")).name_of("red")
            'red.png'
        """
        if leaves_folder(path) or (found := self._found(path)) is None:
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
        files = self.listings[parent]
        usual = normalize("NFC", name)
        return files.get(name) or files.get(usual) or files.get(_with_lower_suffix(usual))

    def _list(self, parent: str) -> dict[str, str]:
        """Return the paths of a folder's files by name, and by the usual spelling of that."""
        for spelling in dict.fromkeys((parent, normalize("NFC", parent), normalize("NFD", parent))):
            try:
                with os.scandir(self.folder / spelling) as entries:
                    files = {entry.name: entry.is_symlink() for entry in entries if _is_file(entry)}
            except (OSError, ValueError):  # ValueError: a NUL in the path
                continue
            paths = {name: f"{spelling}/{name}" if spelling else name for name in files}
            self.links.update(paths[name] for name, is_link in files.items() if is_link)
            usual = {normalize("NFC", name): path for name, path in paths.items()}
            return {_with_lower_suffix(name): path for name, path in usual.items()} | usual | paths
        return {}


def _with_lower_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or leads to one; a link that leads to itself does not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def in_one_split(rows: Iterator[Row]) -> Iterator[Row]:
    """Turn a row of an image that is in another split already into a fault."""
    homes: dict[str, str | None] = {}
    for row in rows:
        home = homes.setdefault(row.image, row.split) if row.image else row.split
        if home == row.split:
            yield row
        else:
            problem = f"image {quoted(row.image)} is in split {home} already"
            yield row._replace(problem=problem)
