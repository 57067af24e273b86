"""The verbs, in the order of the help. One is imported when it is named, or else all are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from contrastive.cli.options import app
from contrastive.cli.parsing import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

PANELS = {
    "Begin": ("init", "validate", "schema"),
    "Train": ("train",),
    "Measure": ("evaluate", "probe", "compositional", "compare", "calibrate", "doctor"),
    "Use": ("classify", "caption", "answer", "search", "embed", "index", "serve", "generate"),
    "Data": ("data",),
    "Share": ("export",),
    "Inspect": ("plugins", "cache"),
}
"""By panel of the help, the modules of this folder, each with a function of its name."""
GROUPS = {"data", "plugins", "cache", "index"}
"""Those that have verbs of their own."""


def add_verbs(arguments: Sequence[str] = ()) -> None:
    """Give the command the verb that the arguments begin with; all verbs if they begin with none.

    Making the options of all takes a tenth of the time in which a spec is checked.
    """
    known = [verb for verbs in PANELS.values() for verb in verbs]
    first = next((word for word in arguments if not word.startswith("-")), None)
    wanted = [first] if first in known else known
    app.registered_commands.clear()
    app.registered_groups.clear()
    for panel, verbs in PANELS.items():
        for verb in verbs:
            if verb not in wanted:
                continue
            made = getattr(import_module(f"contrastive.cli.{verb}"), verb)
            if verb in GROUPS:
                app.add_typer(made, name=verb, rich_help_panel=panel)
            else:
                app.command(cls=Verb, rich_help_panel=panel)(made)
