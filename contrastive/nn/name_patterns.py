"""Glob patterns over names of parameters and modules, and one line for those that match nothing."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHOWN = 3  # names in a message


def matching(patterns: Iterable[str], names: Sequence[str], *, who: str, what: str) -> list[str]:
    """Return the names that at least one pattern matches, in their order.

    ``*`` stands for any text, dots too; ``?`` for one character, ``[01]`` for one of several.

    Args:
        patterns: what is looked for; each has to match something.
        names: dotted names.
        who: where the patterns were written, for the message.
        what: what the names are of, for the message.

    Raises:
        SpecError: a pattern matches no name; says which names are close.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            msg = f"{who}: {pattern!r} matches no {what}; {_hint(pattern, names)}"
            raise SpecError(msg)
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


def _hint(pattern: str, names: Sequence[str]) -> str:
    """Say what might have been meant: the pattern further in, close names, or all first parts."""
    for meant in (f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*"):
        if any(fnmatchcase(name, meant) for name in names):
            return f"did you mean {meant!r}?"
    close = difflib.get_close_matches(
        pattern.rstrip("*."), _beginnings(names), n=SHOWN, cutoff=0.75
    )
    if close:
        return f"close: {_patterns(close, names)}"
    tops = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    return f"give some of: {_patterns(tops, names)}" if tops else "there is none"


def _patterns(beginnings: Iterable[str], names: Sequence[str]) -> str:
    return ", ".join(one if one in names else f"{one}.*" for one in beginnings)


def _beginnings(names: Iterable[str]) -> list[str]:
    """Return every dotted beginning of the names once."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        found |= dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return list(found)
