"""Names of older releases: they work, and each use is warned of with its file and line."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

import pydantic
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from contrastive.errors import RenamedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

P = ParamSpec("P")
R = TypeVar("R")
KeyPath = tuple[str, ...]

# frames that are not the user's: ours, and those of the library that calls us back
OURS = (str(Path(__file__).parents[1]), str(Path(pydantic.__file__).parent))


class NewName(NamedTuple):
    """What a field is called now."""

    name: str
    until: str
    """The last release with the old name."""


RenamedFields = Mapping[str, NewName]
"""By old name."""


class OldName(NamedTuple):
    """A place in plain data with the old name of a field, or of a component."""

    key_path: KeyPath
    new: NewName
    component: str = ""
    """Its old name, which is the value of the key, if a component's."""

    def __str__(self) -> str:
        """Return both names: ``loss.products is now loss.matmul_dtype``."""
        old = ".".join(self.key_path)
        if self.component:
            return f"{old}: {self.component} is now {self.new.name}"
        return f"{old} is now {'.'.join((*self.key_path[:-1], self.new.name))}"


_told_by_reader = ContextVar("told_by_reader", default=False)


@contextmanager
def told_by_reader() -> Generator[None]:
    """Within this block, who reads a file warns of its old names, since it knows the line."""
    token = _told_by_reader.set(True)
    try:
        yield
    finally:
        _told_by_reader.reset(token)


def warn(text: str, *, file: str = "", line: int = 0) -> None:
    """Warn of an old name: in a file, or in the nearest Python line that is not ours."""
    if not file:
        file, line = _callers_line()
    warnings.warn_explicit(text, RenamedWarning, file, line)


def warn_unless_told(text: str) -> None:
    """Warn of an old name, unless who reads the file does."""
    if not _told_by_reader.get():
        warn(text)


def _callers_line() -> tuple[str, int]:
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def with_new_names(
    owner: str, renamed: RenamedFields, fields: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return fields of a config, which ``owner`` names, under their names of today.

    Raises:
        PydanticCustomError: a field is given under both names.
    """
    for old in renamed.keys() & fields.keys():
        new = renamed[old].name
        if new in fields:
            about = {"old": old, "new": new}
            text = "{old} is now {new}, which is given too; remove {old}"
            raise PydanticCustomError("renamed", text, about)
        fields = {new if name == old else name: value for name, value in fields.items()}
        warn_unless_told(f"{owner}: {old} is now {new}")
    return fields


def earlier_defaults(config: object, key_path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the fields within ``config`` that nobody has set, and the defaults that they had."""
    if isinstance(config, BaseModel):
        earlier: Mapping[str, Any] = getattr(config, "earlier_defaults", {})
        for name in earlier.keys() - config.model_fields_set:
            yield (*key_path, name), earlier[name]
        for name in type(config).model_fields:
            yield from earlier_defaults(getattr(config, name), (*key_path, name))
    elif isinstance(config, Mapping):
        for name, inner in cast("Mapping[str, object]", config).items():
            yield from earlier_defaults(inner, (*key_path, name))


def old_names(config: object, data: object, key_path: KeyPath = ()) -> Iterator[OldName]:
    """Yield the old names in plain data that ``config`` was made from."""
    if isinstance(config, BaseModel) and isinstance(data, Mapping):
        renamed: RenamedFields = getattr(config, "renamed", {})
        given = cast("Mapping[str, object]", data)
        for old in renamed.keys() & given.keys():
            yield OldName((*key_path, old), renamed[old])
        components: RenamedFields = getattr(getattr(config, "registry", None), "renamed", {})
        if isinstance(name := given.get("type"), str) and name in components:
            yield OldName((*key_path, "type"), components[name], component=name)
        for name in type(config).model_fields.keys() & given.keys():
            yield from old_names(getattr(config, name), given[name], (*key_path, name))
    elif isinstance(config, Mapping) and isinstance(data, Mapping):
        inner = cast("Mapping[str, object]", config)
        given = cast("Mapping[str, object]", data)
        for name in inner.keys() & given.keys():
            yield from old_names(inner[name], given[name], (*key_path, name))
    elif isinstance(config, (list, tuple)) and isinstance(data, (list, tuple)):
        pairs = zip(cast("list[object]", config), cast("list[object]", data), strict=False)
        for number, (one, given_one) in enumerate(pairs):
            yield from old_names(one, given_one, (*key_path, str(number)))


def renamed_parameters(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments by their old names too: ``old="new"``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        msg = f"{function.__name__}: {old} is now {new}, which is given too"
                        raise TypeError(msg)
                    warn(f"{function.__name__}: {old} is now {new}")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
