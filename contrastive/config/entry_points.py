"""What installed packages offer, from their metadata alone: nothing of them is imported here.

Nor is what reads metadata before it is used: a spec of built-in components needs none.

The environment variable ``CONTRASTIVE_PLUGINS`` says whose offers count: packages by name, joined
by commas; ``none``, or nothing after the ``=``, for no package's. Without it all count.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, cast

from contrastive.version import INTERFACE, __version__

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution, EntryPoint, EntryPoints

CORE = "contrastive-kit"
SWITCH = "CONTRASTIVE_PLUGINS"
NO_PYDANTIC_PLUGINS = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
NO_EXTENSIONS = {
    **NO_PYDANTIC_PLUGINS,
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    "TRITON_BACKENDS_IN_TREE": "1",
}
"""Settings of libraries that look for extensions of theirs in every package, to look in none."""
GROUP = re.compile(r"contrastive[._-](\w+)")
BROUGHT = {"dir_info": "folder", "vcs_info": "repository", "archive_info": "file"}
REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)")


@dataclass(frozen=True)
class PluginEntry:
    """What one installed package offers under one name; a spec itself offers without a package."""

    path: str
    dist: Distribution | None = None

    @cached_property
    def package(self) -> str:
        """Its name; ``?`` if its metadata does not say."""
        return _name_of(self.dist) if self.dist else ""

    @cached_property
    def version(self) -> str:
        """Its version; ``?`` if its metadata does not say."""
        return _version_of(self.dist) if self.dist else ""

    @property
    def fit(self) -> str:
        """For which release of this library the package was written, and which one this is."""
        if not self.dist:
            return ""
        here = f"this is {__version__}, interface {INTERFACE}"
        needs = _requirement_of(self.dist)
        return f" (written for {CORE}{needs}; {here})" if needs is not None else f" ({here})"

    def __str__(self) -> str:
        return f"{self.path} (of {self.package} {self.version})" if self.dist else self.path


def offered_in(group: str) -> dict[str, list[PluginEntry]]:
    """Return what all installed packages offer in an entry-point group, by name."""
    found: dict[str, dict[str, PluginEntry]] = {}
    for point in _entry_points(group):
        found.setdefault(point.name, {}).setdefault(
            point.value, PluginEntry(point.value, point.dist)
        )
    return {name: list(by_path.values()) for name, by_path in sorted(found.items())}


def is_enabled(offer: PluginEntry) -> bool:
    """Tell whether an offered component is enabled by ``CONTRASTIVE_PLUGINS``."""
    chosen = chosen_packages()
    return chosen is None or normalized_name(offer.package) in chosen


def chosen_packages() -> set[str] | None:
    """Return the packages that ``CONTRASTIVE_PLUGINS`` names, or None if all count."""
    said = os.environ.get(SWITCH)
    if said is None:
        return None
    return {normalized_name(name) for name in said.split(",")} - {"", "none"}


def disable_entry_point_scans() -> None:
    """Stop libraries from scanning entry points if those of some package cannot be read.

    They would fail on import. Child processes inherit the setting.
    """
    if not _everything(_searched()).all_readable:
        _disable_extensions()


def _disable_extensions() -> None:
    for name, value in NO_EXTENSIONS.items():
        os.environ.setdefault(name, value)


def unreadable() -> list[tuple[str, str, str]]:
    """Return name, version and problem of packages whose entry points cannot be read.

    Only of those that seem to offer something to this library.
    """
    from importlib.metadata import distributions

    found: list[tuple[str, str, str]] = []
    for dist in distributions():
        try:
            _ = dist.entry_points
        except Exception as error:  # strangers' files fail in many ways
            if _mentions_us(dist):
                problem = " ".join(f"{type(error).__name__}: {error}".split())
                about = f"its entry_points.txt cannot be read: {problem}"
                found.append((_name_of(dist), _version_of(dist), about))
    return found


def misnamed(groups: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return name, version and problem of packages that offer in a group that nobody reads.

    Only where it is nearly one of ``groups``: packages may have groups of their own.
    """
    from importlib.metadata import distributions

    known = {group.partition(".")[2]: group for group in groups}
    found: list[tuple[str, str, str]] = []
    for dist in distributions():
        with suppress(Exception):  # those that cannot be read are told by ``unreadable``
            for group in sorted({point.group for point in dist.entry_points} - {*known.values()}):
                match = GROUP.fullmatch(group)
                if match and (close := get_close_matches(match[1], known, n=1, cutoff=0.75)):
                    meant = known[close[0]]
                    about = f"nothing reads its entry points in {group}; did you mean {meant}?"
                    found.append((_name_of(dist), _version_of(dist), about))
    return found


def normalized_name(name: str) -> str:
    """Return a package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _entry_points(group: str) -> list[EntryPoint]:
    everything = _everything(_searched())
    if not everything.all_readable:
        _disable_extensions()  # of what is imported next
    return [*everything.points.select(group=group)]


def _searched() -> tuple[tuple[str, int], ...]:
    """Return where packages are looked for, and when each of these folders was changed."""
    found: list[tuple[str, int]] = []
    for place in sys.path:
        with suppress(OSError):
            found.append((place, os.stat(place or ".").st_mtime_ns))  # noqa: PTH116
    return tuple(found)


@dataclass(frozen=True)
class _Found:
    """The entry points of all packages, or of those whose can be read."""

    points: EntryPoints
    all_readable: bool


@lru_cache(maxsize=4)  # a folder may be searched for a moment
def _everything(_: tuple[tuple[str, int], ...]) -> _Found:
    """Return what all packages offer, which is read once for all groups."""
    from importlib.metadata import EntryPoints, distributions, entry_points

    try:  # SelectableGroups of Python 3.11, too
        return _Found(cast("EntryPoints", entry_points()), all_readable=True)
    except Exception:  # one package's entry points cannot be read; the others can
        points: list[EntryPoint] = []
        for dist in distributions():
            with suppress(Exception):  # ``unreadable`` tells of it
                points += dist.entry_points
        return _Found(EntryPoints(points), all_readable=False)


def _mentions_us(dist: Distribution) -> bool:
    try:
        return "[contrastive." in (dist.read_text("entry_points.txt") or "")
    except Exception:  # not even text
        return normalized_name(_name_of(dist)).startswith("contrastive")


def _name_of(dist: Distribution) -> str:
    try:
        return dist.metadata["Name"] or "?"
    except Exception:  # the file is missing, or not text
        return "?"


def _version_of(dist: Distribution) -> str:
    try:
        return dist.metadata["Version"] or "?"
    except Exception:
        return "?"


def brought_from(package: str) -> str:
    """Return what a package was installed from if that was no index: a folder, a file; or nothing.

    Installers write it down by PEP 610; the address is nobody's who loads a model.
    """
    from importlib.metadata import distribution

    try:
        about = json.loads(distribution(package).read_text("direct_url.json") or "{}")
        return next(what for key, what in BROUGHT.items() if key in about)
    except Exception:  # not there, or of another shape
        return ""


def _requirement_of(dist: Distribution) -> str | None:
    """Return which versions of this library a package asks for: `` >=0.1``, or nothing if any."""
    try:
        lines = dist.requires or []
    except Exception:
        return None
    for line in lines:
        if (match := REQUIREMENT.match(line)) and normalized_name(match[1]) == CORE:
            return f" {match[2].strip()}" if match[2].strip() else ""
    return None
