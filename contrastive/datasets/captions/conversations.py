"""Conversations about an image, in the form of LLaVA or of chat templates, as its caption."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from contrastive.datasets.tables.text_decoding import parse_json

CONVERSATIONS = ("conversations", "messages")
"""Usual names of columns of conversations."""
IMAGE_LISTS = "images"
"""Usual name of a column of the images of a conversation, of which there has to be one."""
ANSWERS = ("gpt", "assistant", "model")
"""Who answers."""
IMAGE_TOKENS = ("<image>", "<img>")
"""What stands in a text where the image is seen."""


def first_answer(cell: object) -> str | None:
    """Return the first answer of a conversation, which may be JSON; None if the cell is none.

    Example:
        >>> first_answer([{"from": "human", "value": "?"}, {"from": "gpt", "value": "A dog."}])
        'A dog.'
    """
    if isinstance(cell, str) and cell.lstrip().startswith("[{"):
        with suppress(ValueError):
            cell = parse_json(cell)
    if not isinstance(cell, list) or not cell:
        return None
    turns = cast("list[Any]", cell)
    if not all(isinstance(turn, dict) and {"from", "role"} & turn.keys() for turn in turns):
        return None
    for turn in turns:
        if str(turn.get("from") or turn.get("role")).lower() in ANSWERS:
            return _text(turn.get("value") or turn.get("content"))
    return ""


def one_image(cell: object) -> object:
    """Return the image of a cell that lists one; the cell, if it is no list.

    Raises:
        ValueError: it lists more or fewer.

    Example:
        >>> one_image(["1.png"])
        '1.png'
    """
    if not isinstance(cell, list):
        return cell
    images = cast("list[object]", cell)
    if len(images) != 1:
        msg = f"lists {len(images)} images; a row is of one"
        raise ValueError(msg)
    return images[0]


def _text(content: Any) -> str:
    """Return the text of what is said, which may be a list of parts."""
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        return " ".join(_text(part.get("text")) for part in parts if isinstance(part, dict)).strip()
    if not isinstance(content, str):
        return ""
    for place in IMAGE_TOKENS:
        content = content.replace(place, "")
    return content.strip()
