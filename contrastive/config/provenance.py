"""Which package each component of a spec is from: saved with a model, told when it is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, cast

from contrastive import __version__
from contrastive.config.base import Config
from contrastive.config.entry_points import CORE

if TYPE_CHECKING:
    from collections.abc import Generator

Origins = dict[str, dict[str, dict[str, str]]]
"""``{"encoder": {"minilm": {"package": "contrastive-pocket", "version": "0.1.0"}}}``."""

# what is saved may be a stranger's, and is put into a command: names and versions, nothing else
NAME = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)
VERSION = re.compile(r"[0-9][\w.!+-]*", re.ASCII)

_saved: ContextVar[Any] = ContextVar("saved", default=None)


@contextmanager
def saved_with(origins: object) -> Generator[None]:
    """Let errors about unknown components, within this block, say where they came from."""
    token = _saved.set(origins)
    try:
        yield
    finally:
        _saved.reset(token)


def origin_of(kind: str, name: str) -> str:
    """Say which package offered a component when it was saved, and what to do; or nothing."""
    match _saved.get():
        case {**kinds} if isinstance(names := kinds.get(kind), Mapping):
            match cast("Mapping[str, object]", names).get(name):
                case {"package": str(package), "version": str(saved)}:
                    return _remedy(package, saved)
                case _:
                    return ""
        case _:
            return ""


def differences(packages: object, said: str) -> str:
    """Say which packages of a saved model are missing here, or here in another version.

    Args:
        packages: name and version of each, as saved.
        said: what an error says already; packages in it are not told of again.
    """
    found: list[str] = []
    if isinstance(packages, Mapping):
        for package, saved in cast("Mapping[object, object]", packages).items():
            here = _version_here(str(package)) if _sane(package, saved) else saved
            if here != saved and f"saved with {package} {saved}" not in said:
                now = f"installed is {here}" if here else f"run: pip install {package}=={saved}"
                found.append(f"{package} {saved}; {now}")
    return f" (it was saved with {', '.join(found)})" if found else ""


def origins(config: Config) -> Origins:
    """Return the package of every component in a config, at whatever depth."""
    found: Origins = {}
    for part in components(config):
        cls = type(part)
        if package := package_of(cls):
            about = {"package": package[0], "version": package[1]}
            found.setdefault(cls.kind, {})[cls.registry.name_of(cls)] = about
    return found


def package_of(cls: type[Config]) -> tuple[str, str] | None:
    """Return the package that offers a component, and its version; None for a program's own."""
    core = (CORE, __version__) if cls.__module__.startswith("contrastive.") else None
    return cls.registry.package_of(cls) or core


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


def _remedy(package: str, saved: str) -> str:
    if not _sane(package, saved):
        return ""
    here = _version_here(package)
    if here == saved:
        return f"it was saved with {package} {saved}, which no longer offers it here; reinstall it"
    now = f"{here} is installed and lacks it" if here else "which is not installed"
    return f"it was saved with {package} {saved}, {now}; run: pip install {package}=={saved}"


def _sane(package: object, saved: object) -> bool:
    texts = (package, NAME), (saved, VERSION)
    return all(isinstance(text, str) and pattern.fullmatch(text) for text, pattern in texts)


def _version_here(package: str) -> str | None:
    if package == CORE:
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None
