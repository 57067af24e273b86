"""The reference pages of what is imported from Python, from docstrings.

A name is described on the page of the first module that has it; the others link there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.version import INTERFACE

if TYPE_CHECKING:
    from collections.abc import Iterator

SETUP = Path(__file__).with_name("api_examples.py")
SECTIONS = ("Args:", "Returns:", "Yields:", "Raises:", "Example:")
WIDTH = 88
MADE = "Made by `python docs/reference.py` from the docstrings"
PAGES = {
    "contrastive": (
        "api.md",
        f"""\
# contrastive

What `import contrastive` has: specs, models, training, measuring and the uses of a model. {MADE};
tests run each example. They begin with the code at the [end](#what-the-examples-begin-with), and
import the names of the four pages: this one, [losses](losses.md), [testing](testing.md) and the
[interface](interface.md) of plugins.
""",
    ),
    "contrastive.losses.functional": (
        "losses.md",
        f"""\
# contrastive.losses.functional

Losses as plain functions of tensors, for any loop. Shapes: N rows of a, M rows of b, D wide, K =
min(N, M) matched pairs. [Losses](../losses.md) has the definitions together. {MADE}; the examples
begin with [this code](api.md#what-the-examples-begin-with).
""",
    ),
    "contrastive.testing": (
        "testing.md",
        f"""\
# contrastive.testing

Checks for any implementation: a component of a plugin, a kernel of a loss. {MADE}; the examples
begin with [this code](api.md#what-the-examples-begin-with).
""",
    ),
    "contrastive.interface": (
        "interface.md",
        f"""\
# Interface

What a plugin imports: `from contrastive.interface import Encoder, EncoderModule`. These names are
public: `INTERFACE`, now {INTERFACE}, rises when one of them is removed or changes its contract.
[Plugins](../plugins.md) says how they are used. {MADE}; the examples begin with
[this code](api.md#what-the-examples-begin-with).
""",
    ),
}


def pages() -> dict[str, str]:
    """Return the text of each page by its file's name."""
    homes: dict[str, str] = {}
    made: dict[str, str] = {}
    for module, (page, introduction) in PAGES.items():
        names = importlib.import_module(module).__all__
        elsewhere = {name: homes[name] for name in names if name in homes}
        own = [name for name in names if name not in homes]
        homes |= dict.fromkeys(own, page)
        parts = [introduction, *_sections(module, own)]
        if elsewhere:
            links = ", ".join(f"[`{x}`]({home}#{x.lower()})" for x, home in elsewhere.items())
            parts += ["## Described elsewhere", f"{links}."]
        if page == "api.md":
            parts += ["## What the examples begin with", f"```python\n{_setup()}```"]
        made[page] = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    return made


def _setup() -> str:
    code = SETUP.read_text(encoding="utf-8").partition('"""\n\n')[2]
    return re.sub(r"  # noqa.*", "", code)


def _sections(module: str, names: list[str]) -> Iterator[str]:
    """Yield functions, classes, then values, each under its heading."""
    found = {name: getattr(importlib.import_module(module), name) for name in names}
    functions = {name: x for name, x in found.items() if inspect.isfunction(x)}
    classes = {name: x for name, x in found.items() if isinstance(x, type) and x.__name__ == name}
    values = [name for name in names if name not in functions and name not in classes]
    if functions:
        yield "## Functions"
    for name, function in functions.items():
        yield f"### `{name}`"
        yield f"```python\n{_call(name, function)}\n```"
        yield markdown(docstring(module, name))
    if classes:
        yield "## Classes"
    for name, cls in classes.items():
        yield from _class(module, name, cls)
    if values:
        yield "## Registries, types and constants"
    for name in values:
        yield f"### `{name}`"
        yield markdown(docstring(module, name))


def docstring(module: str, name: str) -> str:
    """Return the docstring of a public name: of a value, the one below its assignment."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isfunction(value) or (isinstance(value, type) and value.__name__ == name):
        return inspect.cleandoc(value.__doc__ or "")
    return _values()[name]


@cache
def _values() -> dict[str, str]:
    """Return the docstrings below the assignments at the top of every module of the package."""
    package = Path(inspect.getfile(importlib.import_module("contrastive"))).parent
    found: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        if "templates" not in path.parts:
            found |= dict(_documented(ast.parse(path.read_text(encoding="utf-8")).body))
    return found


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield the names that have a docstring below their assignment."""
    for field, about in pairwise(body):
        match field, about:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, inspect.cleandoc(text)
            case _:
                pass


def markdown(text: str) -> str:
    """Return a docstring of Google's style as Markdown: sections are lists, examples are code."""
    text, _, example = text.partition("Example:\n")
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
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
    plain = re.sub(r"^\.\. math:: (.+)$", r"$$\1$$", plain, flags=re.M)
    plain = re.sub(r":math:`([^`]+)`", r"$\1$", plain)
    if example:
        plain += f"\n\n```pycon\n{textwrap.dedent(example).strip()}\n```"
    return re.sub(r"\n{3,}", "\n\n", plain).strip()


def _class(module: str, name: str, cls: type[Any]) -> Iterator[str]:
    yield f"### `{name}`"
    yield markdown(docstring(module, name))
    if attributes := dict(_attributes(cls)):
        yield "\n".join(f"- `{key}`: {about}" for key, about in attributes.items())
    for key, member in vars(cls).items():
        shown = not key.startswith("_")
        function = member.__func__ if isinstance(member, classmethod) else member
        if isinstance(member, property) and shown:
            yield f"- `{key}`: {markdown(inspect.getdoc(member) or '')}"
        elif (
            inspect.isfunction(function) and shown and function.__module__.startswith("contrastive")
        ):
            yield f"#### `{name}.{key}`"
            yield f"```python\n{_call(f'.{key}', function)}\n```"
            yield markdown(inspect.getdoc(function) or "")


def _attributes(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield the attributes of a class that have a docstring below them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for name, about in _documented(body.body):
        yield name, " ".join(about.split()).replace("``", "`")


def _call(name: str, function: Any) -> str:
    """Return the parameters as they are written, without ``self``; a line each if they are many."""
    signature = inspect.signature(function)
    given = [p for key, p in signature.parameters.items() if key not in ("self", "cls")]
    written = [_parameter(p) for p in given]
    if (
        first := next((i for i, p in enumerate(given) if p.kind is p.KEYWORD_ONLY), None)
    ) is not None:
        written[first:first] = ["*"]
    returned = "" if signature.return_annotation is signature.empty else signature.return_annotation
    end = f") -> {returned}" if returned else ")"
    line = f"{name}({', '.join(written)}{end}"
    return (
        line
        if len(line) <= WIDTH
        else "\n".join([f"{name}(", *(f"    {x}," for x in written), end])
    )


def _parameter(p: inspect.Parameter) -> str:
    stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    annotation = "" if p.annotation is p.empty else f": {p.annotation}"
    default = (
        "" if p.default is p.empty else f" = {getattr(p.default, '__name__', repr(p.default))}"
    )
    return f"{stars}{p.name}{annotation}{default}"
