"""Which code an object runs: the classes and functions that it holds, and holds within those.

What was typed in, at a prompt or in a notebook, has no file whose imports could be read: there the
names count that the code looks up, and what they stand for.
"""

from __future__ import annotations

import dis
import hashlib
import sys
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIMPLE = (str, bytes, int, float, complex, bool, type(None))
Code = type | FunctionType | ModuleType


def reached_code(roots: Iterable[object]) -> Iterator[Code]:
    """Yield every class, function and module that is reached from some objects."""
    waiting = [*roots]
    seen: dict[int, object] = {}  # which keeps them, so that no other has their ids
    while waiting:
        one = waiting.pop()
        if isinstance(one, SIMPLE) or id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, Code):
            yield one
            waiting += _named(one) if is_typed(one) else ()
        else:
            waiting += _held(one)


def is_typed(one: Code) -> bool:
    """Whether something was typed in, so that it has no file."""
    if isinstance(one, ModuleType) or _is_of_python(one):
        return False
    top = one.__module__.partition(".")[0]
    return not Path(getattr(sys.modules.get(top), "__file__", None) or "").is_file()


def hash_typed(one: Code) -> str:
    """Return a hash of what typed code does, wherever it stands, and of the constants it uses."""
    return hashlib.sha256(repr(_described(one)).encode()).hexdigest()[:32]


def _held(one: object) -> list[object]:
    """Return what an object holds, unless it is of Python itself."""
    match one:
        case list() | tuple() | set() | frozenset():
            return [*cast("Iterable[object]", one)]
        case dict():
            return [*cast("dict[object, object]", one).values()]
        case partial():
            return [one.func, *one.args, *one.keywords.values()]
        case MethodType():
            return [one.__self__, one.__func__]
        case _ if (inner := _wrapped(one)) is not one:
            return [inner]
        case _:
            return [] if _is_of_python(type(one)) else [type(one), *_attributes(one)]


def _attributes(one: object) -> list[object]:
    slots = (getattr(cls, "__slots__", ()) for cls in type(one).__mro__)
    names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    slotted = [getattr(one, name, None) for name in names if not name.startswith("__")]
    return [*getattr(one, "__dict__", {}).values(), *slotted]


def _is_of_python(one: type | FunctionType) -> bool:
    top = (one.__module__ or "builtins").partition(".")[0]
    return top in sys.stdlib_module_names and top != "__main__"


def _wrapped(one: Any) -> Any:
    """Return the function within a method or property of any kind."""
    match one:
        case staticmethod() | classmethod():
            return cast("Any", one).__func__
        case property():
            return one.fget
        case cached_property():
            return cast("Any", one).func
        case _ if type(one).__name__ == "_lru_cache_wrapper":
            return one.__wrapped__
        case _:
            return one


def _named(one: Code) -> list[object]:
    """Return what typed code looks up or is made of."""
    if isinstance(one, FunctionType):
        return [*_globals_of(one).values(), *_values_of(one)]
    return [*cast("type", one).__bases__, *_members(one).values()]


def _members(cls: Code) -> dict[str, Any]:
    """Return what is written in a class: of names with underscores, what is called by Python."""
    members = {name: _wrapped(value) for name, value in vars(cls).items()}
    return {
        name: value
        for name, value in members.items()
        if not name.startswith("__") or isinstance(value, FunctionType)
    }


def _values_of(function: FunctionType) -> list[object]:
    """Return what a function has from where it was defined: defaults and outer variables."""
    cells = function.__closure__ or ()
    filled = [cell.cell_contents for cell in cells if cell != type(cell)()]
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *filled]


def _globals_of(function: FunctionType) -> dict[str, object]:
    """Return what the names in a function's code stand for, modules within modules too."""
    found: dict[str, object] = {}
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [x for x in code.co_consts if isinstance(x, CodeType)]
        looked_up = [x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL"]
        for name in looked_up:
            if name in function.__globals__:
                found[name] = value = function.__globals__[name]
                if isinstance(value, ModuleType):
                    inner = {n: getattr(value, n, None) for n in code.co_names}
                    found |= {n: x for n, x in inner.items() if isinstance(x, ModuleType)}
    return found


def _described(one: Any) -> object:
    """Return what decides what some code or value does, with a ``repr`` that stays the same."""
    one = _wrapped(one)
    match one:
        case FunctionType():
            named = {name: _constant(x) for name, x in sorted(_globals_of(one).items())}
            return _instructions(one.__code__), named, [_constant(x) for x in _values_of(one)]
        case type():
            functions = (_described, _constant)
            return [
                (name, functions[not isinstance(x, FunctionType)](x))
                for name, x in _members(one).items()
            ]
        case _:
            return _constant(one)


def _constant(one: object) -> object:
    """Return the ``repr`` of a value, or its kind where that is no more than an address."""
    if isinstance(one, Code):
        return getattr(one, "__qualname__", one.__name__)
    if isinstance(one, set | frozenset):  # has another order in each process
        return sorted(map(repr, cast("Iterable[object]", one)))
    said = repr(one)
    return type(one).__qualname__ if " at 0x" in said else said


def _instructions(code: CodeType) -> tuple[object, ...]:
    """Return what a function does, not where it stands: a notebook has other names each time."""
    constants = [
        _instructions(x) if isinstance(x, CodeType) else _constant(x) for x in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, constants
