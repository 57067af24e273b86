"""Captions that hold the HTML of the page that they were taken from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from contrastive.console import say
from contrastive.datasets.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKUP = re.compile(
    r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#[xX][0-9a-fA-F]{1,5});"
    r"|</?(?:a|b|br|div|em|font|h[1-6]|i|img|li|p|span|strong|sub|sup|table|td|tr|u|ul)\b[^<>]*>",
    re.IGNORECASE,
)
"""Entities such as ``&amp;``, and the tags of text."""


def tell_of_markup(captions: Iterable[tuple[str, str]], place: object) -> None:
    """Tell of captions with HTML in them, by text and source: they stay as they are.

    Example:
        >>> tell_of_markup([("salt & pepper <3", "captions.csv:2")], "photos")  # silent: no HTML
    """
    marked = [(text, source) for text, source in captions if MARKUP.search(text)]
    if marked:
        text, source = marked[0]
        say(
            f"{place}: HTML in {len(marked)} captions, such as {quoted(text)} ({source}); they are "
            "taken as they are: to have plain text, write the table anew with Python's "
            'html.unescape(re.sub("<[^>]+>", " ", text))'
        )
