"""Equations as MathML, which browsers draw without a script: `$x$` in a line, `$$x$$` by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

if TYPE_CHECKING:
    import re

    from markdown import Markdown

PATTERN = r"(?<![\\$\w])(\${1,2})(?![\s$])(.+?)(?<![\s\\])\1(?![\w$])"
ABOVE_ESCAPES_BELOW_CODE = 185  # of Python-Markdown: `code` is 190, a backslash escape 180


class Equation(InlineProcessor):
    """Turns an equation between dollars into MathML."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:  # noqa: ARG002, N802
        """Return a placeholder of the MathML, and what of the line it replaces."""
        display = "block" if m[1] == "$$" else "inline"
        return self.md.htmlStash.store(convert(m[2], display=display)), m.start(0), m.end(0)


class Equations(Extension):
    """The extension of Python-Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register it."""
        md.inlinePatterns.register(Equation(PATTERN, md), "mathml", ABOVE_ESCAPES_BELOW_CODE)


def makeExtension(**options: Any) -> Equations:  # noqa: N802
    """Return the extension, as Python-Markdown looks for it."""
    return Equations(**options)
