"""Import one module of a plugin, in a process that has imported nothing but the core.

``listing`` starts that process. stdout and stderr of the plugin go nowhere: the answer, a line of
JSON, goes to what was stdout before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from contrastive.components import REGISTRIES  # the core is here before the clock starts
from contrastive.config.entry_points import PluginEntry
from contrastive.config.registry import reason
from contrastive.errors import PluginError

if TYPE_CHECKING:
    from contrastive.config.registry import Registry

KINDS = {registry.interface.kind: registry for registry in REGISTRIES}


def answer(request: dict[str, Any]) -> None:
    """Import ``request["module"]`` and try every offer; write what became of it."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        out.write("ready\n")
        out.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        started = time.perf_counter()
        try:
            import_module(request["module"])
            ms = 1000 * (time.perf_counter() - started)
        except BaseException:  # SystemExit too; ``load`` says the reason of each
            ms = None
        torch = "torch" in sys.modules
        problems: dict[str, dict[str, str]] = {}
        for kind, path in request["offers"]:
            problems.setdefault(kind, {})[path] = _problem(KINDS[kind], path)
        found = {"ms": ms, "torch": torch if ms is not None else None, "problems": problems}
        out.write(json.dumps(found))
        out.flush()
        os._exit(0)  # whatever the plugin left behind, such as threads, is not waited for


def _problem(registry: Registry[Any], path: str) -> str:
    """Return what is wrong with an offer, or nothing."""
    try:
        registry.load(PluginEntry(path))
    except PluginError as error:
        return reason(error.__cause__) if error.__cause__ else str(error)
    return ""
