"""Where the components of a saved model came from, for the errors of a machine that lacks them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.entry_points import CORE
from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator

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


def _remedy(package: str, saved: str) -> str:
    if not _sane(package, saved):
        return ""
    here = _version_here(package)
    if here == saved:
        return f"it was saved with {package} {saved}, which no longer offers it here; reinstall it"
    now = f"{here} is installed and lacks it" if here else "which is not installed"
    return f"it was saved with {package} {saved}, {now}; {_install(package, saved)}"


def _install(package: str, saved: str) -> str:
    """Say how to install a package: no index need have one that was not installed from one."""
    kinds: Mapping[str, Mapping[str, Mapping[str, str]]] = _saved.get() or {}
    parts = (part for names in kinds.values() for part in names.values())
    source = next((part.get("from") for part in parts if part.get("package") == package), None)
    match source:
        case "folder" | "file" | "repository":
            where = {"repository": "git+URL"}.get(source, source.upper())
            return f"there it came from a {source}; bring that here and run: pip install {where}"
        case _:
            return f"run: pip install {package}=={saved}"


def _sane(package: object, saved: object) -> bool:
    texts = (package, NAME), (saved, VERSION)
    return all(isinstance(text, str) and pattern.fullmatch(text) for text, pattern in texts)


def _version_here(package: str) -> str | None:
    if package == CORE:
        return __version__
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
                now = f"installed is {here}" if here else _install(str(package), str(saved))
                found.append(f"{package} {saved}; {now}")
    return f" (it was saved with {', '.join(found)})" if found else ""
