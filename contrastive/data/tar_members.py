"""Where the members of a tar file lie, found by its headers alone; nothing is unpacked.

The formats are ustar, GNU's (with long names) and pax. What a header says is checked against the
file: one that is damaged, or leads past the end, ends the walk, since nobody knows where the next
member begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

BLOCK = 512
ZEROS = bytes(BLOCK)
CHECKSUM = slice(148, 156)
MAGIC, MAGIC_AT = b"ustar", 257
LONGEST_EXTENSION = 1 << 20  # bytes of a long name, or of the records of pax
LOOKED_THROUGH = 1 << 20  # bytes, of what is looked through
REGULAR = b"0\x007"
WITHOUT_CONTENT = b"123456"  # whatever length they say
EXTENDED = b"gxXLK"
NOT_REGULAR = {
    b"1": "is a link to another member",
    b"2": "is a link to another file",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
    b"M": "is a part of a file that continues from another archive",
    b"S": "is a sparse file",
}
NO_FILES = b"5DV"  # folders, GNU's lists of what is in them, the label of a volume
COMPRESSED = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d --rm",
}
"""The first bytes of what is compressed, and what undoes that."""


class TarFault(Exception):  # noqa: N818 - as tar files are called faulty
    """From some byte on, a tar file cannot be read."""

    def __init__(self, place: int, problem: str) -> None:
        """Note the byte and the problem."""
        super().__init__(f"byte {place:,}: {problem}")


class Member(NamedTuple):
    """A file in a tar file."""

    name: str
    """Without ``./`` and the like; what cannot be printed is written as in Python."""
    offset: int
    """Of its content."""
    length: int
    problem: str
    """Why it is not read, if it is no regular file."""


class _Header(NamedTuple):
    name: bytes
    kind: bytes
    length: int
    extended: bool
    """Whether blocks follow that say what an old sparse file lacks."""


def members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Yield the files of a tar file of so many bytes, in order.

    Raises:
        TarFault: the rest cannot be read.
    """
    place, long = 0, _Extension()
    while True:
        block = _read(file, place, BLOCK)
        if block == ZEROS:
            _check_nothing_behind(file, place, size)
            return
        if place >= size:
            what = "is empty" if not size else "ends without the blocks that end an archive"
            raise TarFault(size, f"{what}; was it copied completely?")
        if len(block) < BLOCK:
            raise TarFault(place, "ends within a header; was it copied completely?")
        header = _header(block, place)
        content = place + BLOCK
        if header.kind in EXTENDED:
            _check_length(place, header.kind.decode(), header.length, size)
            if header.length > LONGEST_EXTENSION:
                raise TarFault(place, f"a header of {header.length:,} bytes")
            long.read(header.kind, _read(file, content, header.length), place)
            place = content + _padded(header.length)
            continue
        while header.extended and block[504 if content > place + BLOCK else 482]:
            block = _read(file, content, BLOCK)
            content += BLOCK
            if len(block) < BLOCK:
                raise TarFault(place, "ends within a header; was it copied completely?")
        name, length = _normal(long.name or header.name), header.length
        if header.kind in WITHOUT_CONTENT:
            length = 0
        elif long.length is not None:
            length = long.length
        _check_length(place, name, length, size - (content - place - BLOCK))
        is_folder = header.kind in REGULAR and (long.name or header.name).endswith(b"/")
        if header.kind not in NO_FILES and not is_folder:
            problem = "is a sparse file" if long.sparse else NOT_REGULAR.get(header.kind, "")
            if not problem and header.kind not in REGULAR:
                problem = f"is of a kind that is not known ({header.kind!r})"
            yield Member(name, content, length, problem)
        place, long = content + _padded(length), _Extension()


def header_within(content: bytes) -> str:
    """Return the name of a member whose header lies within the content of another, or nothing."""
    found = content.find(MAGIC, MAGIC_AT)
    while found >= 0:
        start = found - MAGIC_AT
        if start % BLOCK == 0 and len(block := content[start : start + BLOCK]) == BLOCK:
            try:
                return _normal(_header(block, start).name) or "one without a name"
            except TarFault:
                pass
        found = content.find(MAGIC, found + 1)
    return ""


class _Extension:
    """What headers before a member say of it."""

    def __init__(self) -> None:
        self.name = b""
        self.length: int | None = None
        self.sparse = False

    def read(self, kind: bytes, content: bytes, place: int) -> None:
        if kind == b"L":
            self.name = content.partition(b"\0")[0]
        elif kind in b"xXg":
            for key, value in _records(content, place):
                if kind == b"g" and key in (b"path", b"size"):
                    raise TarFault(place, f"one {key.decode()} for all members")
                if key == b"path":
                    self.name = value
                elif key == b"size":
                    self.length = _decimal(value, place)
                elif key.startswith(b"GNU.sparse."):
                    self.sparse = True


def _records(content: bytes, place: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of pax: ``17 path=long.jpg`` and a line's end."""
    start = 0
    while start < len(content) and content[start]:
        digits, _, _ = content[start : start + 20].partition(b" ")
        end = start + _decimal(digits, place)
        key, equals, value = content[start + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise TarFault(place, "a header whose records are damaged")
        yield key, value
        start = end


def _decimal(digits: bytes, place: int) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise TarFault(place, "a header whose records are damaged")
    return int(digits)


def _header(block: bytes, place: int) -> _Header:
    """Read a header, whose checksum has to be right."""
    noted = _number(block[CHECKSUM])
    bytes_sum = sum(block) - sum(block[CHECKSUM]) + 8 * ord(" ")
    if noted != bytes_sum and noted != bytes_sum - 256 * _above_ascii(block):  # of old programs
        if place == 0:
            tool = next((how for mark, how in COMPRESSED.items() if block.startswith(mark)), "")
            what = f"is compressed; undo that, since parts of it cannot be read: {tool} FILE"
            raise TarFault(0, what if tool else "is no tar file, or its first header is damaged")
        raise TarFault(place, "no header of a member where one should be; what follows is lost")
    length = _number(block[124:136])
    if length is None or length < 0:
        raise TarFault(place, "a header whose length is no number; what follows is lost")
    name = block[:100].partition(b"\0")[0]
    kind, magic = block[156:157], block[257:265]
    if magic.startswith(b"ustar\0") and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _Header(name, kind, length, kind == b"S")


def _above_ascii(block: bytes) -> int:
    return sum(each > 127 for each in block) - sum(each > 127 for each in block[CHECKSUM])


def _number(field: bytes) -> int | None:
    """Return a number that is written in octal digits, or as GNU writes a large one."""
    if field[0] in (0x80, 0xFF):
        number = int.from_bytes(field[1:], "big")
        return number if field[0] == 0x80 else -1
    digits = field.partition(b"\0")[0].strip(b" ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return None


def _check_length(place: int, name: str, length: int, size: int) -> None:
    if place + BLOCK + length > size:
        there = max(0, size - place - BLOCK)
        raise TarFault(
            place,
            f"{name} has {length:,} bytes by its header, of which {there:,} are there; "
            "was the file copied completely?",
        )


def _check_nothing_behind(file: BinaryIO, place: int, size: int) -> None:
    while place < size and (part := _read(file, place, LOOKED_THROUGH)):
        if part.strip(b"\0"):
            what = "more follows behind the end of the archive, such as another that was appended"
            raise TarFault(place + len(part) - len(part.lstrip(b"\0")), f"{what}; it is not read")
        place += len(part)


def _read(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _normal(name: bytes) -> str:
    """Return a name that fits in one line of a message."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    text = b"/".join(parts).decode("utf-8", "surrogateescape")
    return text if text.isprintable() else repr(text)[1:-1]
