"""The docstring below each field of a config class, read from its source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import cast

from pydantic import BaseModel


def attribute_docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field, the inherited ones too.

    pydantic's own option reads them as it makes the class: a seventh of the time that checking a
    spec takes, and no one looks at them there.
    """
    bases = [one for one in reversed(cls.__mro__) if issubclass(one, BaseModel)]
    found = {name: about for base in bases[1:] for name, about in _own_docstrings(base).items()}
    return {name: about for name, about in found.items() if name in cls.model_fields}


@cache  # finding a class parses its whole file, and a schema asks twice for each
def _own_docstrings(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # made in an interactive session
        return {}
    found: dict[str, str] = {}
    body = cast("ast.ClassDef", ast.parse(source).body[0]).body
    for field, text in pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(about))),
            ):
                found[name] = inspect.cleandoc(about)
            case _:
                pass
    return found
