"""The JSON schema of a spec, with every installed component, for editors and CI."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from pydantic.json_schema import models_json_schema

from contrastive.config.field_docs import prose
from contrastive.errors import PluginError, UnknownComponent

if TYPE_CHECKING:
    from collections.abc import Container

    from contrastive.config.base import Config
    from contrastive.config.registry import Registry


def load_all(
    registry: Registry[Any], *, without: Container[str] = ()
) -> dict[str, type[Config] | Exception]:
    """Import every component, but not the import paths ``without``.

    One that fails is represented by its error.
    """
    found: dict[str, type[Config] | Exception] = {}
    for name in registry:
        offers = () if name in registry.registered else registry.installed[name]
        if any(offer.path in without for offer in offers):
            continue
        try:
            found[name] = registry[name]
        except (PluginError, UnknownComponent) as error:
            found[name] = error
    return found


def json_schema(
    spec: type[Config], *registries: Registry[Any], without: Container[str] = ()
) -> dict[str, Any]:
    """Describe ``spec``; components that cannot be imported or described are left out.

    Args:
        spec: the config class that a file describes.
        registries: the kinds of components that it may hold.
        without: import paths that are not even tried, as importing them may never end.

    Example:
        >>> list(json_schema(heads["mlp"])["$defs"]["Mlp"]["properties"])
        ['type', 'hidden', 'dropout', 'residual']
    """
    menus = {
        registry.interface.kind: {
            name: cls
            for name, cls in load_all(registry, without=without).items()
            if isinstance(cls, type) and _can_be_described(cls)
        }
        for registry in registries
    }
    classes = dict.fromkeys([spec, *(cls for menu in menus.values() for cls in menu.values())])
    refs, described = models_json_schema([(cls, "validation") for cls in classes])
    for registry, (kind, menu) in zip(registries, menus.items(), strict=True):
        choice = _choice(
            {name: refs[cls, "validation"] for name, cls in menu.items()},
            {old: new.name for old, new in registry.renamed.items()},
        )
        about = [prose(inspect.getdoc(cls) or "") for cls in menu.values()]
        choice["properties"]["type"]["anyOf"][0]["enumDescriptions"] = about  # editors show these
        described["$defs"][kind] = choice
    return cast("dict[str, Any]", _link(described | refs[spec, "validation"], set(menus)))


def _can_be_described(cls: type[Config]) -> bool:
    try:
        cls.model_json_schema()
    except Exception:  # whatever it is, the others must not suffer
        return False
    return True


def _choice(refs: dict[str, Any], renamed: dict[str, str]) -> dict[str, Any]:
    """Choose by ``type``. Unlike ``oneOf``, this lets validators say what is wrong."""
    old = {name: refs[new] for name, new in renamed.items() if new in refs}
    deprecated = [
        {"const": name, "deprecated": True, "deprecationMessage": f"Now {renamed[name]}."}
        for name in old
    ]
    names = [{"enum": list(refs)}, {"type": "string", "pattern": ":"}, *deprecated]
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"anyOf": names}},
        "allOf": [{"if": _is_of(name), "then": ref} for name, ref in (refs | old).items()],
    }


def _is_of(name: str) -> dict[str, Any]:
    """Match a mapping of that type. What is no mapping has one mistake, not one of each type."""
    return {"type": "object", "properties": {"type": {"const": name}}, "required": ["type"]}


def _link(node: Any, kinds: set[str]) -> Any:
    """Replace each placeholder of a component by a reference to its kind, docstrings by prose."""
    if isinstance(node, list):
        return [_link(item, kinds) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = {name: _link(value, kinds) for name, value in cast("dict[str, Any]", node).items()}
    if isinstance(about := fields.get("description"), str):
        fields["description"] = prose(about)
    kind = fields.pop("$component", None)
    if kind is None:
        return fields
    return fields | ({"$ref": f"#/$defs/{quote(kind)}"} if kind in kinds else {"type": "object"})
