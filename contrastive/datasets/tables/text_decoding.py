"""Text files that somebody else wrote: bounded, of whatever encoding, or one line with the remedy.

Bytes of a few lines that are no text stay as lone surrogates, so that only those lines are lost.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import shlex
import unicodedata
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, overload

from contrastive.config.local_files import read_bounded, too_large
from contrastive.data.storage.folders import readable_folder
from contrastive.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 30  # the 3.3 million rows of Conceptual Captions are half of this
UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")
"""Categories of Unicode: spaces, of which some have no width, and marks of direction."""
NOT_TEXT = "is not valid UTF-8; save the file as UTF-8"
PART = 1 << 20  # letters of a text whose lines are made together
GZIP = b"\x1f\x8b"
MARKS = {  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
BINARY = {  # in commands, FILE is the file, and OLD keeps what it was
    b"PAR1": "Parquet; end its name with .parquet",
    b"PK\x03\x04": "a zip archive, or Excel; unpack it, or save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "of Excel; save the sheet as CSV in UTF-8",
    b"SQLite format 3\0": "a database; write its table to a CSV",
    b"BZh": "compressed by bzip2; decompress it: cp FILE OLD && bzip2 -dc < OLD > FILE",
    b"\xfd7zXZ": "compressed by xz; decompress it: cp FILE OLD && xz -dc < OLD > FILE",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it: cp FILE OLD && zstd -dc < OLD > FILE",
}
GUESSES = ("GB18030", "SHIFT_JIS", "CP1251")
"""Encodings of letters that are several bytes, or none of them ASCII; CP1252 is of the others."""
MANY = 0.01  # of the lines; fewer may be damage, which another encoding does not mend


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with its mark, maybe compressed by gzip.

    Raises:
        DataError: the file cannot be read, is empty, too large, or no text in these encodings.
    """
    with readable_folder(path.parent):
        try:
            raw = read_bounded(path, MAX_BYTES)
        except FileNotFoundError:
            msg = f"{path}: no such file"
            raise DataError(msg) from None
    compressed = path.suffix.lower() == ".gz" or raw.startswith(GZIP)
    if compressed:
        raw = _decompressed(path, raw)
    for start, what in BINARY.items():
        if raw.startswith(start):
            file, kept = _quoted(path)
            msg = f"{path}: is no text but " + what.replace("FILE", file).replace("OLD", kept)
            raise DataError(msg)
    text = _decoded(path, raw, compressed=compressed).removeprefix("\ufeff")
    if not text.strip():
        msg = f"{path}:1: the file is empty"
        raise DataError(msg)
    return text


def read_lines(path: Path) -> list[str]:
    """Read a text file as ``read_text`` does, line by line."""
    return TextLines(read_text(path))[:]


class TextLines(Sequence[str]):
    r"""The lines of a text, which are made a part at a time: all at once take twice its memory.

    Example:
        >>> lines = TextLines("a\nb\nc")
        >>> len(lines), lines[1], lines[1:]
        (3, 'b', ['b', 'c'])
    """

    def __init__(self, text: str) -> None:
        """Find where parts begin."""
        self.text = text  # splitlines would also split at U+2028 and form feeds
        self.end = "\n" if "\n" in text else "\r"  # which alone ends lines of old Macs
        self.starts, self.firsts = [0], [0]  # of parts: letters, lines
        while (stop := text.find(self.end, self.starts[-1] + PART)) >= 0:
            self.firsts.append(self.firsts[-1] + text.count(self.end, self.starts[-1], stop) + 1)
            self.starts.append(stop + 1)
        self.total = self.firsts[-1] + text.count(self.end, self.starts[-1]) + 1
        self.held = -1, list[str]()

    def __len__(self) -> int:
        """Return the number of lines."""
        return self.total

    @overload
    def __getitem__(self, index: int, /) -> str: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[str]: ...

    def __getitem__(self, index: int | slice, /) -> str | list[str]:
        """Return a line, or some that follow each other."""
        if not isinstance(index, slice):
            return self[index : index + 1][0]
        start, stop, _ = index.indices(self.total)
        found: list[str] = []
        while start < stop:
            number = bisect_right(self.firsts, start) - 1
            part, first = self._part(number), self.firsts[number]
            found += part[start - first : stop - first]
            start = first + len(part)
        return found

    def __iter__(self) -> Iterator[str]:
        """Yield the lines."""
        for number in range(len(self.starts)):
            yield from self._part(number)

    def _part(self, number: int) -> list[str]:
        if self.held[0] != number:
            last = number + 1 == len(self.starts)
            stop = len(self.text) if last else self.starts[number + 1] - 1
            self.held = number, self.text[self.starts[number] : stop].split(self.end)
        return self.held[1]


def read_json(path: Path) -> object:
    """Read a JSON document.

    Raises:
        DataError: as ``read_text``, or it is not JSON: ``file:line: problem``.
    """
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        msg = f"{path}:{error.lineno}: not valid JSON: {error.msg}; was it copied completely?"
    except DataError:
        raise
    except ValueError as error:
        msg = f"{path}:1: not valid JSON: {error}"
    raise DataError(msg)


def parse_json(text: str) -> object:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or not of a sane depth.
    """
    try:
        return json.loads(text)
    except RecursionError:
        msg = "nested too deeply"
        raise ValueError(msg) from None


def check_unique_keys(path: Path) -> None:
    """Insist that no name stands twice in an object of a JSON document, which keeps the last.

    Raises:
        DataError: one does; says how to give several values.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(found := dict(pairs)) < len(pairs):
            names = [name for name, _ in pairs]
            twice = json.dumps(next(name for name in names if names.count(name) > 1))
            msg = f"{path}: {twice} stands twice; give a list: {{{twice}: [...]}}"
            raise DataError(msg)
        return found

    json.loads(read_text(path), object_pairs_hook=unique)


def text_problem(text: str) -> str:
    """Return what is wrong with a text that should be a name or a caption, or nothing.

    Example:
        >>> text_problem("a red square"), text_problem("")
        ('', 'is empty')
    """
    if not text.strip():
        return "is empty"
    if text.isascii() and text.isprintable():  # as most are, and soon known
        return ""
    if "\0" in text:
        return "has a NUL character"
    if all(unicodedata.category(letter) in UNSEEN for letter in text):
        return "has nothing that is seen"
    try:
        text.encode()
    except UnicodeEncodeError:
        return NOT_TEXT
    return ""


def _decompressed(path: Path, raw: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{path}: not readable gzip: {error}"
        raise DataError(msg) from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: decompressed, {too_large(len(content), MAX_BYTES)}")
    return content


def _decoded(path: Path, raw: bytes, *, compressed: bool) -> str:
    for mark, encoding in MARKS.items():
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError as error:
                msg = f"{path}:1: not valid {encoding}: {error.reason}; was it copied completely?"
                raise DataError(msg) from None
    if b"\0" in raw[:2]:
        width = 32 if raw[:3] == bytes(3) or raw[1:4] == bytes(3) else 16
        encoding = f"UTF-{width}{'BE' if raw[:1] == bytes(1) else 'LE'}"
        msg = f"{path}:1: this is {encoding}; {_conversion(path, encoding, compressed=compressed)}"
        raise DataError(msg)
    with suppress(UnicodeDecodeError):
        return raw.decode()
    lines = [] if b"\0" in raw else raw.split(b"\n")  # with NULs, it is no text at all
    other = [number for number, line in enumerate(lines, 1) if not line.isascii()]
    wrong = [number for number in other if not _is_in(lines[number - 1], "utf-8")]
    if 2 * len(wrong) > len(other) and (1 in wrong or len(wrong) > max(1, MANY * len(lines))):
        guess = _conversion(path, _likely(raw), compressed=compressed)
        msg = f"{path}:{wrong[0]}: is not UTF-8; {guess} (or with the encoding that wrote it)"
        raise DataError(msg)
    return raw.decode("utf-8", "surrogateescape")


def _likely(raw: bytes) -> str:
    """Guess the encoding of a text that is not UTF-8: in few are letters alone not ASCII."""
    runs = re.findall(rb"[\x80-\xff]+", raw)
    several = sum(map(len, runs)) > 1.5 * len(runs)
    return next((name for name in GUESSES if several and _is_in(raw, name)), "CP1252")


def _is_in(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _quoted(path: Path) -> tuple[str, str]:
    """Return a file, and another beside it that keeps what it was, as a shell reads them."""
    return shlex.quote(str(path)), shlex.quote(f"{path}.orig")


def _conversion(path: Path, encoding: str, *, compressed: bool) -> str:
    """Return commands that write a file anew in UTF-8, and keep what it was beside it."""
    file, kept = _quoted(path)
    convert = f"iconv -f {encoding} -t UTF-8 {kept}"
    if compressed:
        return f"write it in UTF-8: gzip -dc {file} > {kept} && {convert} | gzip > {file}"
    return f"write it in UTF-8: cp {file} {kept} && {convert} > {file}"
