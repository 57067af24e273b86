"""Dicts, lists and sets that equal plain ones and cannot be changed: the containers of a spec."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar, cast

from contrastive.errors import SpecError

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed; its ``copy()`` is a plain dict."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class FrozenList(list[V]):
    """A list that cannot be changed; its ``copy()`` is a plain list."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self),)


class FrozenSet(set[V]):
    """A set that cannot be changed, and unlike ``frozenset`` is a ``set``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (set(self),)


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    plain = type(self).__mro__[1].__name__
    msg = (
        f"a {plain} in a spec cannot be changed; make another spec with another {plain}: "
        "model_copy(update={...})"
    )
    raise SpecError(msg)


CHANGES = {
    FrozenDict: "__setitem__ __delitem__ __ior__ clear pop popitem setdefault update",
    FrozenList: "__setitem__ __delitem__ __iadd__ __imul__ append clear extend insert pop remove "
    "reverse sort",
    FrozenSet: "__iand__ __ior__ __isub__ __ixor__ add clear difference_update discard "
    "intersection_update pop remove symmetric_difference_update update",
}
for _cls, _names in CHANGES.items():
    for _name in _names.split():
        setattr(_cls, _name, _refuse)


def frozen(value: Any) -> Any:
    """Return a value with every dict, list and set in it frozen."""
    kind: type = type(cast("object", value))
    if kind is dict:
        return FrozenDict({k: frozen(v) for k, v in value.items()})
    if kind is list:
        return FrozenList(map(frozen, value))
    if kind is set:
        return FrozenSet(value)
    if kind is tuple:
        return tuple(map(frozen, value))
    return value
