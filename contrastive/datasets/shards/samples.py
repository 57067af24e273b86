"""The samples of a tar file: its members put together by their names, and what they say.

In the format of WebDataset, members belong together if their names agree up to the first dot of the
file's name: ``00/000012.jpg``, ``00/000012.txt`` and ``00/000012.json``. They may be in any order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from contrastive.config.local_files import too_large
from contrastive.data.images import SUFFIXES
from contrastive.data.tar_members import header_within
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.tables.columns import NO_VALUE, caption_list, is_no_caption, text_of
from contrastive.datasets.tables.text_decoding import parse_json
from contrastive.errors import is_missing

if TYPE_CHECKING:
    from typing import BinaryIO

    from contrastive.data.tar_members import Member

ROLES = ("image", "text", "group", "label", "split")
USUAL_NAMES = {
    "image": tuple(suffix[1:] for suffix in SUFFIXES),
    "text": ("captions", "txt", "caption", "text", "title"),  # a list of all, then the first
    "group": ("group", "group_id"),
    "label": ("label",),
    "split": ("split",),
}
"""By role, the ends of members' names, or the fields of the .json, where it is looked for."""
FIELDS = "json"
OTHER_LABELS = ("cls", "class", "class_name", "category")
PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")
MAX_TEXT_BYTES = 1 << 24  # of a member with a caption or fields
MOST_NAMES = 30  # ends and fields that are told
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


class Roles(NamedTuple):
    """The columns that a spec names, by role; "" does without one."""

    image: str | None = None
    text: str | None = None
    group: str | None = None
    label: str | None = None
    split: str | None = None

    def names(self, role: str) -> tuple[str, ...]:
        """Return where a role is looked for; what is found first has it."""
        given: str | None = getattr(self, role)
        if given is None:
            return USUAL_NAMES[role]
        return tuple(name.strip().removeprefix(".") for name in given.split(";") if name.strip())


class Caption(NamedTuple):
    """A caption, or what is wrong with it."""

    text: str
    problem: str = ""


@dataclass
class Sample:
    """What the members of one key say."""

    key: str
    place: tuple[int, int] = (0, 0)
    """Where the image lies, and how long it is."""
    captions: list[Caption] = field(default_factory=list[Caption])
    group: str = ""
    label: str = ""
    split: str = ""
    problem: str = ""
    twice: str = ""
    """The name of a member that is there again."""


@dataclass
class _Members:
    """Members of one key, by the end of their names."""

    places: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    problems: dict[str, str] = field(default_factory=dict[str, str])
    twice: str = ""


class SampleReader:
    """Puts the members of one tar file together."""

    def __init__(self, roles: Roles) -> None:
        """Look for roles."""
        self.roles = roles
        self.names = {role: roles.names(role) for role in ROLES}
        self.of_text = {FIELDS, *(name for role in ROLES[1:] for name in self.names[role])}
        self.held: dict[str, _Members] = {}
        self.notes: dict[str, str] = {}
        """What is told of the data, though no sample is bad for it, by what it is about."""
        self.found: set[str] = set()
        """The roles that some sample has."""
        self.there: dict[str, None] = {}
        """The ends of names, and fields, that there are."""

    def add(self, file: BinaryIO, member: Member) -> None:
        """Add a member, whose content is read if it is a text."""
        found = NAME.fullmatch(member.name)
        if not found:
            if not member.name.rpartition("/")[2].startswith("."):  # as Macs add
                self.notes.setdefault(
                    "", f"{quoted(member.name)} has no end such as .jpg; not read"
                )
            return
        key, end = found[1], found[2].lower()
        if end in PICKLES:
            self.notes.setdefault(end, f"{quoted(member.name)} and its like are pickles; not read")
            return
        if len(self.there) < MOST_NAMES:
            self.there[end] = None
        held = self.held.setdefault(key, _Members())
        if end in held.places or end in held.problems:
            held.twice = held.twice or member.name
        elif member.problem:
            held.problems[end] = f"{quoted(member.name)} {member.problem}; not read"
        else:
            held.places[end] = member.offset, member.length
            if end in self.of_text:
                try:
                    held.contents[end] = _content(file, member)
                except ValueError as error:
                    held.problems[end] = f"{quoted(member.name)}: {error}"

    def sample(self, key: str) -> Sample:
        """Return what the members of a key say."""
        held = self.held[key]
        sample = Sample(key, twice=held.twice)
        try:
            fields = self._fields(held)
            sample.place = self._image(held, fields)
            sample.captions = self._captions(held, fields)
            for role in ROLES[2:]:
                setattr(sample, role, self._optional(held, fields, role))
        except ValueError as error:
            sample.problem = str(error)
        if not sample.label and self.roles.label is None:
            for name in {*OTHER_LABELS} & held.places.keys():
                what = f"{quoted(name)} is not read; if it is the label, set label_column to it"
                self.notes.setdefault("label", what)
        return sample

    def _image(self, held: _Members, fields: dict[str, object]) -> tuple[int, int]:
        for name in self.names["image"]:
            if name in held.places:
                self.found.add("image")
                return held.places[name]
        raise ValueError(self._missing(held, fields, "image"))

    def _fields(self, held: _Members) -> dict[str, object]:
        """Return what the .json says.

        Raises:
            ValueError: it is damaged.
        """
        if FIELDS in held.problems:
            raise ValueError(held.problems[FIELDS])
        if FIELDS not in held.contents:
            return {}
        try:
            found = parse_json(held.contents[FIELDS].decode("utf-8-sig"))
        except ValueError as error:
            msg = f"its .json cannot be read: {error}"
            raise ValueError(msg) from None
        if not isinstance(found, dict):
            msg = "its .json is not an object with fields"
            raise ValueError(msg)  # noqa: TRY004 - of the data
        fields = cast("dict[str, object]", found)
        if len(self.there) < MOST_NAMES:
            self.there |= dict.fromkeys(fields)
        return fields

    def _cell(self, held: _Members, fields: dict[str, object], role: str) -> tuple[str, object]:
        """Return where a role was found, and what is there; nothing and None if it is nowhere.

        Raises:
            ValueError: it cannot be read.
        """
        for name in self.names[role]:
            if name in held.problems:
                raise ValueError(held.problems[name])
            if name in held.contents and name != FIELDS:
                return name, held.contents[name].decode("utf-8", "surrogateescape").strip("\ufeff")
            if name in fields:
                return name, fields[name]
        return "", None

    def _captions(self, held: _Members, fields: dict[str, object]) -> list[Caption]:
        name, cell = self._cell(held, fields, "text")
        if not name:
            raise ValueError(self._missing(held, fields, "text"))
        self.found.add("text")
        several = caption_list(cell)
        if not isinstance(several, list):
            return [_caption(name, cell)]
        return [_caption(name, each) for each in cast("list[object]", several) or [""]]

    def _optional(self, held: _Members, fields: dict[str, object], role: str) -> str:
        name, cell = self._cell(held, fields, role)
        if name:
            self.found.add(role)
        text = text_of(cell)
        if not text and not (is_missing(cell) or cell == ""):
            without = f"{role}_column: '' does without it"
            if not isinstance(cell, str):
                msg = f"{quoted(name)} is not a text; {without}"
                raise ValueError(msg)
        return "" if text in NO_VALUE else text

    def _missing(self, held: _Members, fields: dict[str, object], role: str) -> str:
        names = self.names[role]
        for name in names:
            if name in held.problems:
                return held.problems[name]
        there = name_list([*held.places, *held.problems, *fields][:MOST_NAMES])
        what = "image" if role == "image" else "caption"
        return f"has no {what} ({', '.join(names)}); it has {there or 'nothing'}"


def _caption(name: str, cell: object) -> Caption:
    text = text_of(cell)
    if not text:
        return Caption("", f"{quoted(name)} is empty or not a text")
    if is_no_caption(text):
        return Caption("", f"{quoted(name)} is {quoted(text)}: no value")
    return Caption(text)


def _content(file: BinaryIO, member: Member) -> bytes:
    """Read a member.

    Raises:
        ValueError: it is too large, or runs over the one behind it.
    """
    if member.length > MAX_TEXT_BYTES:
        raise ValueError(too_large(member.length, MAX_TEXT_BYTES))
    file.seek(member.offset)
    content = file.read(member.length)
    if other := header_within(content):
        msg = f"the length in its header is wrong: it runs over {other}, which is lost"
        raise ValueError(msg)
    return content
