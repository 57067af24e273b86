"""The fields of a config in words, for the reference pages and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from contrastive.config.base import Config
from contrastive.config.field_docs import SECTION, FieldRow, fields_of, prose
from contrastive.encoders import Encoder
from contrastive.heads import Head, Linear


class Part(Config):
    """A section."""

    size: int = 1


class Everything(Config):
    """One field of each sort."""

    name: str
    """What it is called;
    in two lines, with ``code``.

    And a second paragraph."""
    encoder: Encoder
    head: Head = Linear(bias=False)
    part: Part = Part()
    parts: dict[str, Part]
    choice: Literal["one", "two"] = "two"
    only: Literal["this"] = "this"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    folder: Path | None = None
    sizes: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    more: Annotated[list[int], Field(default_factory=lambda: [3])]
    factor: float = Field(1.0, alias="lambda")
    anything: Any = None
    mapping: dict[str, int] = Field({})


@pytest.mark.parametrize(
    ("name", "sort", "default"),
    [
        ("name", "string", None),
        ("encoder", "encoder", None),
        ("head", "head", "{type: linear}"),
        ("part", "Part", SECTION),
        ("parts", "mapping of names to Part", None),
        ("choice", "`one` or `two`", '"two"'),
        ("only", "`this`", '"this"'),
        ("share", "number >= 0 and < 1", "0.5"),
        ("folder", "path or null", "null"),
        ("sizes", "2 of: integer", "[1, 2]"),
        ("names", "list of string", "[]"),
        ("more", "list of integer", "[3]"),
        ("lambda", "number", "1.0"),
        ("anything", "anything", "null"),
        ("mapping", "mapping of names to integer", "{}"),
    ],
)
def test_a_field_is_told_as_a_file_has_it(name, sort, default):
    rows = {row.name: row for row in fields_of(Everything)}
    assert (rows[name].type, rows[name].default) == (sort, default)
    assert len(rows) == 15


def test_the_help_is_the_docstring_in_one_line():
    text = "What it is called; in two lines, with `code`. And a second paragraph."
    assert fields_of(Everything)[0] == FieldRow("name", "string", None, text)


def test_prose_is_a_docstring_a_paragraph_a_line():
    assert prose("one\n  two\n\nthree") == "one two\n\nthree"


def test_names_of_kinds_and_sections_may_become_links():
    rows = {row.name: row.type for row in fields_of(Everything, link="[{}]".format)}
    assert rows["encoder"] == "[encoder]"
    assert rows["parts"] == "mapping of names to [Part]"
    assert rows["name"] == "string"
