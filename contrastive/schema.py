"""The JSON schema of a spec, with every installed component, for editors and CI."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from pydantic.json_schema import models_json_schema

from contrastive import __version__
from contrastive.errors import PluginError, UnknownComponent
from contrastive.registry import Offer, Registry, path_of, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.config import Config


def load_all(registry: Registry[Any]) -> dict[str, type[Config] | Exception]:
    """Import every component; one that fails is represented by its error."""
    found: dict[str, type[Config] | Exception] = {}
    for name in registry:
        try:
            found[name] = registry[name]
        except (PluginError, UnknownComponent) as error:
            found[name] = error
    return found


def json_schema(spec: type[Config], *registries: Registry[Any]) -> dict[str, Any]:
    """Describe ``spec``; components that cannot be imported or described are left out."""
    menus = {
        registry.interface.kind: {
            name: cls
            for name, cls in load_all(registry).items()
            if isinstance(cls, type) and _can_be_described(cls)
        }
        for registry in registries
    }
    classes = dict.fromkeys([spec, *(cls for menu in menus.values() for cls in menu.values())])
    refs, described = models_json_schema([(cls, "validation") for cls in classes])
    for kind, menu in menus.items():
        choice = _choice({name: refs[cls, "validation"] for name, cls in menu.items()})
        about = [inspect.getdoc(cls) or "" for cls in menu.values()]
        choice["properties"]["type"]["anyOf"][0]["enumDescriptions"] = about  # editors show these
        described["$defs"][kind] = choice
    return cast("dict[str, Any]", _link(described | refs[spec, "validation"], set(menus)))


def listing(*registries: Registry[Any]) -> list[dict[str, str]]:
    """List every component with its state: ok, broken, shadowed or ambiguous.

    Importing is tried for each; a failure becomes an entry.
    """
    return [entry for registry in registries for entry in _entries(registry)]


def _entries(registry: Registry[Any]) -> Iterator[dict[str, str]]:
    kind = registry.interface.kind
    registered = dict(registry.registered)  # importing may register more
    for name, cls in sorted(registered.items()):
        package = registry.package_of(cls) or ("contrastive-kit", __version__)
        yield _entry(kind, name, Offer(path_of(cls), *package), "ok")
    for name, offers in registry.installed.items():
        for offer in offers:
            if name in registered:
                yield _entry(kind, name, offer, "shadowed", f"write {offer.path}")
            elif len(offers) > 1:
                yield _entry(kind, name, offer, "ambiguous", f"write {offer.path}")
            else:
                try:
                    registry.load(offer)
                    yield _entry(kind, name, offer, "ok")
                except PluginError as error:
                    why = reason(error.__cause__) if error.__cause__ else str(error)
                    yield _entry(kind, name, offer, "broken", why)


def _entry(kind: str, name: str, offer: Offer, state: str, why: str = "") -> dict[str, str]:
    about = {"package": offer.package, "version": offer.version, "path": offer.path}
    return {"kind": kind, "name": name, **about, "state": state, "why": why}


def _can_be_described(cls: type[Config]) -> bool:
    try:
        cls.model_json_schema()
    except Exception:  # whatever it is, the others must not suffer
        return False
    return True


def _choice(refs: dict[str, Any]) -> dict[str, Any]:
    """Choose by ``type``. Unlike ``oneOf``, this lets validators say what is wrong."""
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"anyOf": [{"enum": list(refs)}, {"pattern": ":"}]}},
        "allOf": [
            {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": ref}
            for name, ref in refs.items()
        ],
    }


def _link(node: Any, kinds: set[str]) -> Any:
    """Replace each placeholder of a component by a reference to its kind."""
    if isinstance(node, list):
        return [_link(item, kinds) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = {name: _link(value, kinds) for name, value in cast("dict[str, Any]", node).items()}
    kind = fields.pop("$component", None)
    if kind is None:
        return fields
    return fields | ({"$ref": f"#/$defs/{quote(kind)}"} if kind in kinds else {"type": "object"})
