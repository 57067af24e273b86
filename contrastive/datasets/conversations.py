"""Conversations about an image, in the form of LLaVA or of chat templates, as its caption."""

from __future__ import annotations

from typing import Any, cast

CONVERSATIONS = ("conversations", "messages")
"""Usual names of columns of conversations."""
ANSWERS = ("gpt", "assistant", "model")
"""Who answers."""


def first_answer(cell: object) -> str | None:
    """Return the first answer of a conversation; None if the cell is none.

    Example:
        >>> first_answer([{"from": "human", "value": "?"}, {"from": "gpt", "value": "A dog."}])
        'A dog.'
    """
    if not isinstance(cell, list) or not cell:
        return None
    turns = cast("list[Any]", cell)
    if not all(isinstance(turn, dict) and {"from", "role"} & turn.keys() for turn in turns):
        return None
    for turn in turns:
        if turn.get("from", turn.get("role")) in ANSWERS:
            return _text(turn.get("value", turn.get("content")))
    return ""


def _text(content: Any) -> str:
    """Return the text of what is said, which may be a list of parts."""
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        return " ".join(_text(part.get("text")) for part in parts if isinstance(part, dict))
    return content.strip() if isinstance(content, str) else ""
