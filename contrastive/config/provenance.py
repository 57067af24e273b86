"""Which package each component of a spec is from: saved with a model, told when it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from contrastive.config.base import Config
from contrastive.config.entry_points import CORE, brought_from
from contrastive.config.registry import path_of
from contrastive.version import __version__

Origins = dict[str, dict[str, dict[str, str]]]
"""``{"encoder": {"minilm": {"package": "contrastive-pocket", "version": "0.1.0"}}}``.

``"from": "folder"``, or a file or a repository, is added for a package that is from no index.
"""


def origins(config: Config) -> Origins:
    """Return the package of every component in a config, at whatever depth."""
    found: Origins = {}
    for part in components(config):
        cls = type(part)
        if package := package_of(cls):
            about = {"package": package[0], "version": package[1]}
            if package[0] != CORE and (source := brought_from(package[0])):
                about["from"] = source
            found.setdefault(cls.kind, {})[cls.registry.name_of(cls)] = about
    return found


def package_of(cls: type[Config]) -> tuple[str, str] | None:
    """Return the package that offers a component, and its version; None for a program's own."""
    return cls.registry.package_of(cls) or ((CORE, __version__) if is_ours(cls) else None)


def is_ours(cls: type) -> bool:
    """Whether a class is of this library, rather than of a plugin or the user's."""
    return cls.__module__.partition(".")[0] == "contrastive"


def described(cls: type[Config]) -> str:
    """Name a component for a message: ``loss acme:Margin (of contrastive-acme 0.2.0)``."""
    package = package_of(cls)
    return f"{cls.kind} {path_of(cls)}" + (f" (of {' '.join(package)})" if package else "")


def components(value: object) -> Iterator[Config]:
    """Yield every component in a config, itself included, at whatever depth."""
    match value:
        case Config():
            if value.kind:
                yield value
            for name in type(value).model_fields:
                yield from components(getattr(value, name))
        case Mapping():
            for item in cast("Mapping[object, object]", value).values():
                yield from components(item)
        case Sequence() if not isinstance(value, (str, bytes)):
            for item in cast("Sequence[object]", value):
                yield from components(item)
        case _:
            pass


def packages(origins: Origins) -> dict[str, str]:
    """Return name and version of every package in ``origins``, and those of the core."""
    parts = (part for kind in origins.values() for part in kind.values())
    return {CORE: __version__} | {part["package"]: part["version"] for part in parts}
