"""What a file says, as words of a message: short, on one line, in quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def quoted(text: str) -> str:
    """Return a text from a file as one short line fit for a message.

    Example:
        >>> print(quoted("a red square"))
        'a red square'
    """
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def name_list(names: Iterable[str]) -> str:
    """Return names from a file for a message: the first ten.

    Example:
        >>> name_list(["train", "val"])
        "'train', 'val'"
    """
    several = list(names)
    return ", ".join(map(quoted, several[:10])) + (", ..." if len(several) > 10 else "")
