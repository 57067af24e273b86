"""Files that were read before: their content hash, and whether they can be decoded.

An index of this user, beside the feature cache, so that a later start reads only files that are
new or have changed. As in git, a file is taken as unchanged if its size, times and inode are those
that were noted, and if it was not touched at about the time of the note: a change within the
clock's resolution would go unseen. The index saves time and no more: where it cannot be read or
written, files are read again.

Parts of a file, such as the images of a table or of a tar, are noted many together and looked up
with one look at the file. Little is held in memory: what is asked for again is read again from the
index, which lies on disk; where it cannot, in a temporary file of SQLite.

Shapes: K parts of a file.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from PIL import __version__ as pillow

from contrastive.config.local_files import ADDRESS, cache_folder, check_regular, read_bounded
from contrastive.console import bar, say
from contrastive.errors import BadSample, reason_of
from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

MAX_FILE_BYTES = 1 << 30  # of a file; more is no sample but a table or a disk image
RESOLUTION = 2_000_000_000  # nanoseconds: file systems note times to 2 s at worst
AT_A_TIME = 500  # files that are looked up; SQLite takes 999 values
UNWRITTEN = 1_000  # notes that are held before they are written
PARTS_UNWRITTEN = 8_192  # those of parts, which take 40 bytes each
KEPT = 1 << 14  # files and problems that are held, of half a kilobyte each
HASH = 32  # bytes of a SHA-256
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
READER = f"{__version__}, pillow {pillow}"
"""What decodes; another release may refuse other images."""
TABLES = """
create table if not exists files (
    path text primary key, size integer, mtime integer, ctime integer, inode integer,
    noted integer, hash blob
) without rowid;
create table if not exists decoded (
    hash blob, reader text, problem text, primary key (hash, reader)
) without rowid;
create table if not exists parts (
    path blob, within text, version text, first integer, last integer, numbers blob, hashes blob
);
create index if not exists parts_of_file on parts (path, within, version, last);
"""
NOTED_PARTS = """
select numbers, hashes from parts
where path = ? and within = ? and version = ? and last >= ? and first <= ?
"""


def file_hash(content: bytes | bytearray | memoryview) -> bytes:
    """Return the SHA-256 of ``file`` and what a file holds."""
    total = hashlib.sha256(b"file\0")
    total.update(content)
    return total.digest()


class Seen(NamedTuple):
    """A file as it was when it was read."""

    size: int
    mtime: int
    ctime: int
    inode: int
    noted: int
    hash: bytes

    def is_still(self, about: os.stat_result) -> bool:
        """Whether the file has not been touched since, nor shortly before."""
        now = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
        return now == self[:4] and max(self.mtime, self.ctime) + RESOLUTION < self.noted


class PartsOfFile(NamedTuple):
    """Some parts of one file, or of one object of a storage."""

    file: str
    """Its path or address."""
    within: str
    """What the numbers count, such as ``rows of image`` or ``bytes``."""
    numbers_K: np.ndarray
    """Of the parts: int64."""
    version: str = ""
    """What changes when the content does, such as an ETag; of a local file, it may be left out."""
    at_once: int = 1
    """How many are read at a time, in threads; several where a server takes its time."""


SEEN = [*[int] * 5, bytes]
"""Types of the fields of ``Seen``, which the file's columns do not insist on."""


class ContentIndex:
    """The index of one process; each process opens the file for itself."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.opened: tuple[int, sqlite3.Connection | None] = (0, None)
        self.files: dict[str, Seen] = {}
        self.problems: dict[bytes, str] = {}
        self.new_files: dict[str, Seen] = {}
        self.new_problems: dict[bytes, str] = {}
        self.cleaned: set[tuple[str, str]] = set()

    def hash_of(self, path: Path | str) -> bytes:
        """Return the SHA-256 of ``file`` and a file's content, reading it only if need be.

        Raises:
            OSError: it cannot be read.
        """
        place = _absolute(path)
        about = os.stat(place)  # noqa: PTH116  (half the time of Path.stat, for each of the files)
        if (seen := self._seen(place)) and seen.is_still(about):
            return seen.hash
        now = time.time_ns()
        found = file_hash(read_bounded(path, MAX_FILE_BYTES))
        times = about.st_mtime_ns, about.st_ctime_ns
        seen = Seen(about.st_size, *times, about.st_ino, now, found)
        self._keep(self.files, place, seen)
        self.new_files[place] = seen
        self._write_if_many()
        return found

    def look_up(self, paths: Sequence[Path | str]) -> None:
        """Read what is noted of up to ``KEPT`` files, before they are asked for one by one."""
        places = [*map(_absolute, paths)]
        if len(self.files) + len(places) > KEPT:
            self.files.clear()
        unknown = [os.fsencode(place) for place in places if place not in self.files]
        for first in range(0, len(unknown), AT_A_TIME):
            self._read(unknown[first : first + AT_A_TIME])

    def hashes_of_parts(
        self, parts: PartsOfFile, images: Callable[[np.ndarray], Sequence[Any]]
    ) -> tuple[np.ndarray, dict[int, Exception]]:
        """Return the hash of what each part holds, reading those only that are not noted.

        Args:
            parts: of one file, which is looked at once.
            images: returns some of the K stored images, by their places among them.

        Returns:
            ``[K, 32]`` uint8, and the error of each part that could not be read.

        Raises:
            OSError: there is no such file.
        """
        version, since = parts.version or version_of(parts.file), time.time_ns()
        lasts = bool(parts.version) or _settled(version, since)
        hashes_K, known_K = self._noted_parts(parts, version)
        errors: dict[int, Exception] = {}
        new = (~known_K).nonzero()[0]
        together = PARTS_UNWRITTEN if parts.at_once == 1 else UNWRITTEN
        for first in range(0, len(new), together):
            some = new[first : first + together]
            held = dict(zip(some.tolist(), images(some), strict=True))
            for place, found in _each_read(held, parts.at_once):
                if isinstance(found, Exception):
                    errors[place] = found
                else:
                    hashes_K[place] = np.frombuffer(found, np.uint8)
            good = np.array([place for place in some.tolist() if place not in errors], np.int64)
            if lasts and len(good):
                self._note_parts(parts, version, good, hashes_K)
        return hashes_K, errors

    def noted_hash(self, part: PartsOfFile) -> bytes | None:
        """Return the hash that is noted of what a part holds, which has a version; else None."""
        hashes_K, known_K = self._noted_parts(part, part.version)
        return hashes_K[0].tobytes() if known_K[0] else None

    def _noted_parts(self, parts: PartsOfFile, version: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes that are noted, ``[K, 32]``, and which these are."""
        numbers_D, which_K = parts.numbers_K, None
        if (np.diff(numbers_D) <= 0).any():
            numbers_D, which_K = np.unique(numbers_D, return_inverse=True)
        hashes_D = np.zeros((len(numbers_D), HASH), np.uint8)
        known_D = np.zeros(len(numbers_D), np.bool_)
        place = os.fsencode(_absolute_or_address(parts.file))
        ends = (int(numbers_D[0]), int(numbers_D[-1])) if len(numbers_D) else (0, -1)
        for held in self._each(NOTED_PARTS, place, parts.within, version, *ends):
            if [type(value) for value in held] != [bytes, bytes]:
                continue
            if len(held[0]) * HASH != len(held[1]) * 8:
                continue
            numbers = np.frombuffer(held[0], np.int64)
            found = np.minimum(np.searchsorted(numbers_D, numbers), len(numbers_D) - 1)
            same = numbers_D[found] == numbers
            hashes_D[found[same]] = np.frombuffer(held[1], np.uint8).reshape(-1, HASH)[same]
            known_D[found[same]] = True
        return (hashes_D, known_D) if which_K is None else (hashes_D[which_K], known_D[which_K])

    def _note_parts(
        self, parts: PartsOfFile, version: str, good: np.ndarray, hashes_K: np.ndarray
    ) -> None:
        numbers = parts.numbers_K[good].astype(np.int64)
        place = _absolute_or_address(parts.file)
        name = (os.fsencode(place), parts.within)
        with self._database() as database:
            if database is None:
                return
            with database:
                if (place, parts.within) not in self.cleaned:
                    self.cleaned.add((place, parts.within))
                    older = "delete from parts where path = ? and within = ? and version != ?"
                    database.execute(older, (*name, version))
                ends = int(numbers.min()), int(numbers.max())
                row = (*name, version, *ends, numbers.tobytes(), hashes_K[good].tobytes())
                database.execute("insert into parts values (?, ?, ?, ?, ?, ?, ?)", row)

    def problem_of(self, content: bytes) -> str | None:
        """Return why an image cannot be decoded, "" if it can, None if nobody has tried."""
        if content in self.new_problems:
            return self.new_problems[content]
        if content not in self.problems:
            rows = self._query(
                "select problem from decoded where hash = ? and reader = ?", content, READER
            )
            if not rows or not isinstance(rows[0][0], str):
                return None
            self._keep(self.problems, content, rows[0][0])
        return self.problems[content]

    def note_problem(self, content: bytes, problem: str) -> None:
        """Note why an image cannot be decoded, or "" if it can."""
        self._keep(self.problems, content, problem)
        self.new_problems[content] = problem
        self._write_if_many()

    def _keep(self, held: dict[_Key, _Value], key: _Key, value: _Value) -> None:
        if len(held) >= KEPT:
            held.clear()
        held[key] = value

    def write(self) -> None:
        """Write what is new."""
        files, problems = self.new_files, self.new_problems
        self.new_files, self.new_problems = {}, {}
        if not files and not problems:
            return
        with self._database() as database:
            if database is None:
                return
            with database:
                database.executemany(
                    "insert or replace into files values (?, ?, ?, ?, ?, ?, ?)",
                    [(os.fsencode(place), *seen) for place, seen in files.items()],
                )
                database.executemany(
                    "insert or replace into decoded values (?, ?, ?)",
                    [(content, READER, problem) for content, problem in problems.items()],
                )

    def _write_if_many(self) -> None:
        if len(self.new_files) + len(self.new_problems) >= UNWRITTEN:
            self.write()

    def _seen(self, place: str) -> Seen | None:
        if place not in self.files and place not in self.new_files:
            self._read([os.fsencode(place)])
        return self.files.get(place) or self.new_files.get(place)

    def _read(self, places: list[bytes]) -> None:
        marks = ", ".join("?" * len(places))
        statement = f"select path, {', '.join(Seen._fields)} from files where path in ({marks})"  # noqa: S608
        for place, *about in self._query(statement, *places):
            if [type(value) for value in about] == SEEN:
                self._keep(self.files, os.fsdecode(place), Seen(*about))

    def _each(self, statement: str, *values: bytes | str | int) -> Iterator[tuple[Any, ...]]:
        """Yield rows as they are read, not all at once."""
        with self._database() as database:
            if database:
                yield from database.execute(statement, values)

    def _query(self, statement: str, *values: bytes | str) -> list[tuple[Any, ...]]:
        with self._database() as database:
            return database.execute(statement, values).fetchall() if database else []
        return []  # the block has told that it failed

    @contextmanager
    def _database(self) -> Generator[sqlite3.Connection | None]:
        """Open the file once in each process; go on without it if anything about it fails."""
        if self.opened[0] != os.getpid():
            with self._optional():
                self.opened = os.getpid(), self._open()
        with self._optional():
            yield self.opened[1]

    @contextmanager
    def _optional(self) -> Generator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, OverflowError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED:
                self.opened = 0, None  # deleted meanwhile, with its notes; made anew if need be
                return
            self.opened = os.getpid(), _temporary()
            why = reason_of(error)
            say(f"{self.folder}: the index of files cannot be used ({why}); files are read again")

    def _open(self) -> sqlite3.Connection | None:
        if self.folder is None:
            return _temporary()
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("files.sqlite*"):
            with suppress(FileNotFoundError):  # a journal, which another process has done with
                check_regular(path)
        database = sqlite3.connect(self.folder / "files.sqlite", check_same_thread=False)
        database.executescript(TABLES)
        return database


def _each_read(held: dict[int, Any], at_once: int) -> Iterator[tuple[int, bytes | Exception]]:
    """Yield the hash of each part, or why it cannot be read."""

    def hash_or_error(image: Any) -> bytes | Exception:
        try:
            return file_hash(image.read())
        except (OSError, BadSample) as error:
            return error

    if at_once == 1:
        yield from ((place, hash_or_error(image)) for place, image in held.items())
        return
    with bar("fetching images", len(held)) as advance, ThreadPoolExecutor(at_once) as threads:
        for place, found in zip(held, threads.map(hash_or_error, held.values()), strict=True):
            advance(1, "")
            yield place, found


def _temporary() -> sqlite3.Connection | None:
    """Return an index of this process alone, in a file without a name."""
    with suppress(sqlite3.Error):
        database = sqlite3.connect("", check_same_thread=False)
        database.executescript(TABLES)
        return database
    return None


def version_of(path: Path | str) -> str:
    """Return what changes when a local file does: its size, its times and its inode.

    Raises:
        OSError: it is not there.
    """
    about = os.stat(path)  # noqa: PTH116
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"


def _settled(version: str, now: int) -> bool:
    """Whether a file was not touched shortly before."""
    _, mtime, ctime, _ = map(int, version.split())
    return max(mtime, ctime) + RESOLUTION < now


def _absolute_or_address(file: str) -> str:
    return file if ADDRESS.match(file) else _absolute(file)


def _absolute(path: Path | str) -> str:
    place = os.fspath(path)
    return place if os.path.isabs(place) else str(Path(place).absolute())  # noqa: PTH117


def content_index() -> ContentIndex:
    """Return this process's index, in the folder of the feature cache."""
    try:
        return _index_in(cache_folder())
    except ValueError:  # told by whoever keeps features
        return _index_in(None)


@cache
def _index_in(folder: Path | None) -> ContentIndex:
    index = ContentIndex(folder)
    atexit.register(index.write)
    return index
