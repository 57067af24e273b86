"""Every component with its state, and what importing its package costs.

A package is imported in a process of its own (``isolated_import``), since what is imported already
costs nothing, and since a package may hang, exit or print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contrastive.config.entry_points import (
    PluginEntry,
    chosen_packages,
    misnamed,
    normalized_name,
    unreadable,
)
from contrastive.config.provenance import package_of
from contrastive.config.registry import Registry, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LIMIT = 20.0
"""Seconds that importing one module may take."""

# the child finds what this process finds, and nothing else (-P: no json.py of the working folder)
CHILD = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request['path'];"
    "from contrastive.plugin_tools.isolated_import import answer; answer(request)"
)
READY = b"ready\n"

Key = tuple[str, str]
"""A package and a module of it: what is imported by itself."""


@dataclass(frozen=True)
class Entry:
    """One component as ``contrastive plugins`` lists it."""

    kind: str
    name: str
    package: str
    version: str
    path: str
    state: str = "ok"
    """ok, broken, shadowed (the core has the name) or ambiguous (another package has it too)."""
    why: str = ""
    import_ms: float | None = None
    """Time that importing its module took; None for the core, and if it cannot be imported."""
    torch: bool | None = None
    """Whether that imported torch, which a package should leave to ``build``."""


@dataclass(frozen=True)
class Import:
    """How importing a module went."""

    ms: float | None = None
    torch: bool | None = None
    problems: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Any])
    """By kind and import path, what is wrong with a component; nothing if it is sound."""
    problem: str = ""
    """Of the module as a whole."""


def listing(
    *registries: Registry[Any],
    limit: float = LIMIT,
    advance: Callable[[int, str], None] | None = None,
) -> list[Entry]:
    """List every component, the broken ones with the reason.

    Args:
        registries: the kinds.
        limit: seconds that importing one module may take.
        advance: called after each module, for a progress bar.
    """
    trials = dict(import_isolated(*registries, limit=limit, advance=advance))
    found = [entry for registry in registries for entry in _entries(registry, trials)]
    chosen = chosen_packages()
    flaws = [*unreadable(), *misnamed(registry.group for registry in registries)]
    broken = [Entry("?", "?", *about[:2], "?", "broken", about[2]) for about in flaws]
    return found + [
        one for one in broken if chosen is None or normalized_name(one.package) in chosen
    ]


def failing_imports(*registries: Registry[Any], limit: float = LIMIT) -> set[str]:
    """Return the import paths whose modules would hang this process or end it."""
    modules = modules_of(*registries)
    trials = import_isolated(*registries, limit=limit)
    return {path for key, trial in trials if trial.problem for _, path in modules[key]}


def unused_selections(*registries: Registry[Any]) -> list[str]:
    """Return what ``CONTRASTIVE_PLUGINS`` names without effect: it offers nothing here."""
    there = {normalized_name(package) for package, _ in modules_of(*registries)}
    return sorted((chosen_packages() or set()) - there)


def modules_of(*registries: Registry[Any]) -> dict[Key, list[tuple[str, str]]]:
    """Return each module that installed packages name, with kind and path of each offer."""
    found: dict[Key, list[tuple[str, str]]] = {}
    for registry in registries:
        for offer in (offer for offers in registry.installed.values() for offer in offers):
            found.setdefault(_key(offer), []).append((registry.interface.kind, offer.path))
    return found


def import_isolated(
    *registries: Registry[Any],
    limit: float = LIMIT,
    advance: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[Key, Import]]:
    """Import each module in a process of its own, some side by side."""
    modules = modules_of(*registries)
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        running = {pool.submit(_try, key[1], paths, limit): key for key, paths in modules.items()}
        for done in as_completed(running):
            if advance:
                advance(1, running[done][0])
            yield running[done], done.result()


def _try(module: str, offers: list[tuple[str, str]], limit: float) -> Import:
    request = json.dumps({"path": sys.path, "module": module, "offers": offers})
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-c", CHILD, request],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # so that what follows the first line is left to communicate()
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != READY:
            process.kill()
            return Import(problem="the process that should import it did not start")
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return Import(problem=f"still importing after {limit:g} s")
    try:
        return Import(**json.loads(said))
    except ValueError:
        return Import(problem=f"importing it ended the process with exit code {process.returncode}")


def _entries(registry: Registry[Any], trials: dict[Key, Import]) -> Iterator[Entry]:
    kind = registry.interface.kind
    for name, cls in sorted(registry.registered.items()):
        yield Entry(kind, name, *(package_of(cls) or ("", "")), path_of(cls))
    for name, offers in registry.installed.items():
        for offer in offers:
            trial = trials[_key(offer)]
            problem = trial.problem or trial.problems[kind][offer.path]
            if name in registry.registered:
                state = "shadowed", f"write {offer.path}"
            elif len(offers) > 1:
                state = "ambiguous", f"write {offer.path}"
            else:
                state = ("broken", problem) if problem else ("ok", "")
            about = (offer.package, offer.version, offer.path)
            yield Entry(kind, name, *about, *state, trial.ms, trial.torch)


def _key(offer: PluginEntry) -> Key:
    return offer.package, offer.path.partition(":")[0].strip()
