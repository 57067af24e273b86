"""A component by a name of any kind."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from contrastive.config.entry_points import PluginEntry
from contrastive.errors import PluginError, UnknownComponent

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.config.registry import Registry


def component(name: str, *registries: Registry[Any]) -> type[Config]:
    """Return the class that is meant.

    Args:
        name: a name; ``kind/name``, where components of several kinds have it; or an import path.
        registries: the kinds.

    Raises:
        UnknownComponent: nothing, or more than one thing, has that name.
        PluginError: something has that name, but its package is broken.
    """
    kind, slash, rest = name.partition("/")
    if slash:
        return of_kind(kind, registries)[rest]
    if ":" in name:
        return _of_class(name, registries)[name]
    found = [registry for registry in registries if name in set(registry)]
    if len(found) > 1:
        choices = " or ".join(f"{registry.interface.kind}/{name}" for registry in found)
        msg = f"{name!r} is the name of several components; write {choices}"
        raise UnknownComponent(msg)
    if not found:
        raise UnknownComponent(_unknown(name, registries))
    return found[0][name]


def of_kind(kind: str, registries: tuple[Registry[Any], ...]) -> Registry[Any]:
    """Return the registry of a kind.

    Raises:
        UnknownComponent: there is no such kind.
    """
    kinds = {registry.interface.kind: registry for registry in registries}
    if kind not in kinds:
        msg = f"unknown kind {kind!r}; there are: {', '.join(kinds)}"
        raise UnknownComponent(msg)
    return kinds[kind]


def _of_class(path: str, registries: tuple[Registry[Any], ...]) -> Registry[Any]:
    found = registries[0].imported(PluginEntry(path))
    for registry in registries:
        if isinstance(found, type) and issubclass(found, registry.interface):
            return registry
    interfaces = ", ".join(registry.interface.__name__ for registry in registries)
    msg = f"{path} is no component: it is a subclass of none of {interfaces}"
    raise PluginError(msg)


def _unknown(name: str, registries: tuple[Registry[Any], ...]) -> str:
    known = {one: registry.interface.kind for registry in registries for one in registry}
    for registry in registries:
        if disabled := registry.disabled_by(name):
            return f"unknown component {name!r}; {disabled}"
    close = difflib.get_close_matches(name, known, n=3)
    hint = " or ".join(f"{one!r} ({known[one]})" for one in close)
    remedy = f"did you mean {hint}?" if hint else "contrastive plugins lists all of them"
    return f"unknown component {name!r}; {remedy}"
