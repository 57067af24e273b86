"""The reference page of ``contrastive.interface``: what plugins import, from its docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from contrastive import interface

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = ("Args:", "Returns:", "Yields:", "Raises:")
INTRODUCTION = """\
# Interface

What a plugin imports: `from contrastive.interface import Encoder, EncoderModule`. These names are
public: `INTERFACE`, now {version}, rises when one of them is removed or changes its contract. Made
by `python docs/reference.py` from the docstrings. [Plugins](../plugins.md) says how they are used.
"""


def text() -> str:
    """Return the page: classes with their attributes and methods, then functions and values."""
    found = {name: getattr(interface, name) for name in interface.__all__}
    classes = {name: x for name, x in found.items() if isinstance(x, type)}
    functions = {name: x for name, x in found.items() if inspect.isfunction(x)}
    rest = [name for name in found if name not in classes and name not in functions]
    parts = [INTRODUCTION.format(version=interface.INTERFACE), "## Classes"]
    parts += [part for name, cls in classes.items() for part in _class(name, cls)]
    parts.append("## Functions")
    for name, function in functions.items():
        parts += [f"### `{name}{_signature(function)}`", markdown(inspect.getdoc(function) or "")]
    parts += ["## Registries, types and constants", ", ".join(f"`{name}`" for name in rest) + "."]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def markdown(docstring: str) -> str:
    """Return a docstring of Google's style as Markdown: sections are lists."""
    lines: list[str] = []
    section = ""
    for line in docstring.splitlines():
        if line.strip() in SECTIONS and not line.startswith(" "):
            section = line.strip()
            lines += ["", f"{section.rstrip(':')}:", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            item = re.sub(r"^(\w+): ", r"`\1`: ", line.strip())
            lines.append(f"- {item}")
        elif section and line.strip():
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    plain = "\n".join(lines).replace("``", "`")
    return re.sub(r"\n{3,}", "\n\n", plain).strip()


def _class(name: str, cls: type[Any]) -> Iterator[str]:
    yield f"### `{name}`"
    yield markdown((cls.__doc__ and inspect.cleandoc(cls.__doc__)) or "")
    if attributes := dict(_attributes(cls)):
        yield "\n".join(f"- `{key}`: {about}" for key, about in attributes.items())
    for key, member in vars(cls).items():
        shown = not key.startswith("_")
        function = member.__func__ if isinstance(member, classmethod) else member
        if isinstance(member, property) and shown:
            yield f"- `.{key}`: {markdown(inspect.getdoc(member) or '')}"
        elif (
            inspect.isfunction(function) and shown and function.__module__.startswith("contrastive")
        ):
            yield f"#### `.{key}{_signature(function)}`"
            yield markdown(inspect.getdoc(function) or "")


def _attributes(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a class that have a docstring below them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, about in pairwise(body.body):
        match field, about:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(docstring))),
            ):
                yield name, " ".join(docstring.split()).replace("``", "`")
            case _:
                pass


def _signature(function: Any) -> str:
    """Return the parameters as they are written, without ``self``."""
    signature = inspect.signature(function)
    given = [p for name, p in signature.parameters.items() if name not in ("self", "cls")]
    return str(signature.replace(parameters=given)).replace("'", "")
