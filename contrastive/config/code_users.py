"""Which classes of a package use a piece of its code, as far as names show it."""

from __future__ import annotations

import sys
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contrastive.config.base import Config

Named = type | FunctionType


def users_of(code: CodeType, classes: Iterable[type[Config]], package: str) -> list[type[Config]]:
    """Return those of some classes whose methods, or what these name, have some code.

    Args:
        code: of a function, such as the backward of an autograd function.
        classes: of one package.
        package: its top-level name; what others have is not looked into.
    """
    modules = [
        (name.rpartition(".")[2], module)
        for name, module in [*sys.modules.items()]
        if name.partition(".")[0] == package
    ]

    @cache  # classes of one package use much the same
    def used_by(one: Named) -> list[Named]:
        return [*(_members(one) if isinstance(one, type) else _looked_up(one, modules))]

    @cache
    def has_code(one: Named) -> bool:
        return code in _codes_of(one)

    return [cls for cls in classes if any(map(has_code, _reached(cls, package, used_by)))]


def _reached(root: type, package: str, used_by: Callable[[Named], list[Named]]) -> Iterator[Named]:
    """Yield the classes and functions of a package that a class uses, itself first."""
    waiting: list[Named] = [root]
    seen: set[Named] = set()
    while waiting:
        one = waiting.pop()
        if one in seen or one.__module__.partition(".")[0] != package:
            continue
        seen.add(one)
        yield one
        waiting += used_by(one)


def _members(cls: type) -> Iterator[Named]:
    yield from cls.__bases__
    for member in [*vars(cls).values()]:  # pydantic may add to them meanwhile
        inner: Any = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(inner, FunctionType):
            yield inner


def _looked_up(
    function: FunctionType, modules: Iterable[tuple[str, ModuleType]]
) -> Iterator[Named]:
    """Yield what the names in a function may stand for, those that it imports itself too."""
    names = {name for code in _codes_of(function) for name in code.co_names}
    tails = {name.rpartition(".")[2] for name in names}
    places = [vars(module) for tail, module in modules if tail in tails]
    for name in names:
        for place in (function.__globals__, *places):
            if isinstance(one := place.get(name), Named):
                yield one


def _codes_of(one: Named) -> list[CodeType]:
    """Return the code of a function and of those within it; none of a class."""
    waiting = [one.__code__] if isinstance(one, FunctionType) else []
    found: list[CodeType] = []
    while waiting:
        code = waiting.pop()
        found.append(code)
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return found
