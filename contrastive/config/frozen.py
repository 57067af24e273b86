"""Dicts and lists of a spec, which nobody can change."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from contrastive.errors import SpecError


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    what = "dict" if isinstance(self, dict) else "list"
    msg = f"a {what} of a spec cannot be changed; make another spec, by model_copy(update=...)"
    raise SpecError(msg)


class FrozenDict(dict[Any, Any]):
    """A dict that raises ``SpecError`` where it would be changed; a copy of it is one, too."""

    __setitem__ = __delitem__ = __ior__ = _refuse  # pyright: ignore[reportAssignmentType]
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that raises ``SpecError`` where it would be changed; a copy of it is one, too."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse  # pyright: ignore[reportAssignmentType]
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


def frozen(value: Any) -> Any:
    """Return a value whose dicts and lists, inner ones too, cannot be changed."""
    if type(value) is dict:
        return FrozenDict({k: frozen(v) for k, v in cast("dict[Any, Any]", value).items()})
    if type(value) is list:
        return FrozenList(frozen(v) for v in cast("list[Any]", value))
    if type(value) is tuple:
        return tuple(frozen(v) for v in cast("tuple[Any, ...]", value))
    return value
