"""What Python functions are called with: checked, with one line for a mistake.

A message names the parameter; an option of the command line has its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from contrastive.config.local_files import address_of, local_path
from contrastive.errors import SpecError, a_type

if TYPE_CHECKING:
    from pathlib import Path


def count(name: str, value: Any, *, least: int = 1, most: int = 2**63 - 1) -> int:
    """Return a whole number; numpy has some too.

    Raises:
        SpecError: it is none, below ``least`` or above ``most``.
    """
    if type(value) is not bool and isinstance(value, Integral) and least <= int(value) <= most:
        return int(value)
    limit = f"at most {most:,}" if most < 2**63 - 1 else "below 2**63"
    msg = f"{name} is {value!r}; give a whole number of at least {least}, {limit}"
    raise SpecError(msg)


def counts(name: str, values: Any) -> list[int]:
    """Return whole numbers of at least 1.

    Raises:
        SpecError: something else is among them, or they are no list.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        msg = f"{name} is {values!r}; give a list of whole numbers, such as [1, 5]"
        raise SpecError(msg)
    return [count(name, value) for value in cast("Iterable[Any]", values)]


def strings(name: str, values: Any) -> list[str]:
    """Return strings; one alone is refused, whose letters would be taken for several.

    Raises:
        SpecError: something else is among them, or they are no list.
    """
    several = not isinstance(values, (str, bytes, Mapping)) and isinstance(values, Iterable)
    found = list(cast("Iterable[Any]", values)) if several else []
    if several and all(isinstance(value, str) for value in found):
        return found
    given = repr(values) if isinstance(values, str) else a_type(cast("Any", values))
    if several:
        given = f"a list with {next(x for x in found if not isinstance(x, str))!r}"
    msg = f"{name}: {given} was given; give strings, in a list"
    raise SpecError(msg)


def number(name: str, value: Any, *, least: float, most: float, what: str) -> float:
    """Return a number within bounds; ``what`` says which.

    Raises:
        SpecError: it is none, or out of bounds.
    """
    if type(value) is not bool and isinstance(value, Real) and least <= float(value) <= most:
        return float(value)
    msg = f"{name} is {value!r}; give a number {what}"
    raise SpecError(msg)


def is_path(value: Any) -> TypeGuard[str | PathLike[str]]:
    """Whether something may be the path of a file or a folder."""
    return isinstance(value, (str, PathLike))


def path_of(name: str, value: Any) -> Path:
    """Return a path, the home folder put in for ~.

    Raises:
        SpecError: it is none, empty, an address, or the text of a file.
    """
    if is_path(value) and str(value) and not {"\n", "\0"} & set(str(value)):
        try:
            return local_path(value)
        except ValueError as error:
            msg = f"{name}: {error}"
            raise SpecError(msg) from None
    if is_path(value) and str(value):
        msg = f"{name} is {str(value)!r}, with a line break or a NUL; give a path without"
        raise SpecError(msg)
    shown = is_path(value) or not (value or value is None)
    msg = f"{name} is {repr(value) if shown else a_type(value)}; give a path"
    raise SpecError(msg)


def address_in(name: str, value: Any) -> str:
    """Return the address that an argument is, as ``address_of``; "" if it is none.

    Raises:
        SpecError: it has a password or a query.
    """
    try:
        return address_of(value) if is_path(value) else ""
    except ValueError as error:
        msg = f"{name}: {error}"
        raise SpecError(msg) from None


def check_model(model: Any) -> None:
    """Insist on a model, as the first argument of the functions that use one.

    Raises:
        SpecError: it is something else; says how to come by a model.
    """
    if hasattr(model, "embed") and not isinstance(model, type):
        return
    from contrastive.config.base import Config  # here, since the help of a verb needs no pydantic

    if is_path(model):
        msg = f"a model comes first, not its name; load it: load_model({str(model)!r})"
    elif isinstance(model, (Config, Mapping)):
        msg = "a model comes first, not its spec; build it: build_model(spec)"
    elif hasattr(model, "module"):  # of DistributedDataParallel
        msg = "a model comes first, not what it is wrapped in; give model.module"
    else:
        what = model.__name__ if isinstance(model, type) else a_type(model)
        msg = f"a model comes first, not {what}; load_model(folder) gives one"
    raise SpecError(msg)


def check_cache(cache: Any) -> None:
    """Insist on a feature cache, or None.

    Raises:
        SpecError: it is something else.
    """
    if cache is not None and (isinstance(cache, type) or not hasattr(cache, "table")):
        msg = f"cache is {a_type(cache)}; give FeatureCache(folder)"
        raise SpecError(msg)
