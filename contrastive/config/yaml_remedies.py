"""What to do about a text that is no YAML: the parser says only where it gave up."""

from __future__ import annotations

import re
from typing import Any

QUOTE = "a whole text that begins with {, [ or a quote in quotes"
REMEDIES = {  # the first whose sign is in the problem
    "found character '\\t'": "indent with spaces",
    "cannot start any token": "put the text in quotes",
    "but got '{'": "put a text with {} in quotes",
    "',' or '}', but got ':'": "put a comma between entries, or a text with ': ' in quotes",
    "',' or '}', but got '<scalar>'": f"put a comma between entries, or {QUOTE}",
    "',' or ']', but got '<scalar>'": f"put a comma between entries, or {QUOTE}",
    "'<scalar>'": f"put {QUOTE}",
    "'<block mapping start>'": "indent it as the lines that it belongs to",
    "found undefined alias": "put a text that begins with * in quotes",
    "found unknown escape character": "put the text in single quotes",
    "found unexpected end of stream": "end the text with its quote",
    "could not find expected ':'": "write name: value",
    "sequence entries are not allowed here": "begin the list on a line of its own",
    "found another document": "remove the '---'",
}
NO_VALUE = "give one, write null for none, or leave it out for its default"
NAMED = re.compile(r"^\s*(?:- )?[^#]*?:(?:\s|$)")  # ``name: value`` or ``name:``


def remedy_for(problem: str, text: str, start: int, line: int, column: int) -> str:
    """Return what to do about a parser's problem; or nothing.

    It was met at a line and column of the text, in something that starts on an earlier line, or on
    the same; lines count from 0.
    """
    if start < line and re.search("flow|quoted", problem):
        return f"close the bracket or quote of line {start + 1}, or put a comma between entries"
    if "mapping values are not allowed here" in problem:
        *above, here = text.splitlines()[: line + 1]
        return _before_a_colon(above, here[:column])
    return next((remedy for sign, remedy in REMEDIES.items() if sign in problem), "")


def is_empty(node: Any) -> bool:
    """Whether nothing is written where a value should be."""
    return node.id == "scalar" and not node.value and node.style is None


def written_nothing(node: Any) -> str:
    """Say why a value that something is written for is none: an anchor alone, a tag, a bare |."""
    if node.id == "scalar" and node.style in ("|", ">") and not node.value.strip():
        return f"{node.style} begins a text of indented lines, and none follows; {NO_VALUE}"
    if not is_empty(node) or node.start_mark.index == node.end_mark.index:
        return ""
    if node.anchor:
        given = f"&{node.anchor}"
        return f"{given} names a value, and none follows; if it is a text, write '{given}'"
    return f"a tag (!) comes before a value, and none follows; {NO_VALUE}"


def _before_a_colon(lines: list[str], before: str) -> str:
    """Return what to do where a colon cannot stand: in a text, or below a line that goes on."""
    if re.search(r":\s", before):
        return "put a text with ': ' in quotes"
    above = next((x for x in reversed(lines) if x.strip() and x.strip()[0] != "#"), "")
    if NAMED.match(above):
        return "indent it as the line above, or put a text of several lines in quotes"
    remedy = "a space after its ':'" if ":" in above else "a ':' after its name"
    return f"the line above is no 'name: value'; write {remedy}"
