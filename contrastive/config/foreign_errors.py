"""Whose mistake an exception is that went through the code of a plugin, or of the user's own."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, cast

from contrastive.config.base import Config
from contrastive.config.provenance import described, is_ours, package_of
from contrastive.config.registry import reason
from contrastive.errors import ContrastiveError, PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SHOW = "CONTRASTIVE_TRACEBACK"
"""An environment variable: what is one line has its traceback above it, for authors."""
BUILT = {"EncoderModule": "encoder", "LossModule": "loss"}
MACHINES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Numbers of errors that are the machine's, whoever meets them: no space, too many open files."""
LONGEST = 300  # characters of somebody else's message


def foreign_error(error: BaseException) -> PluginError | None:
    """Return an error that names the component whose code an exception went through, if one's did.

    That is the innermost code of any package that offers a component in use: libraries below it
    and our own code are called by it.
    """
    if isinstance(error, ContrastiveError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError) and error.errno in MACHINES:
        return None
    known: dict[str, list[type[Config]]] = {}
    for cls in _foreign_components(Config):
        known.setdefault(_top(cls.__module__), []).append(cls)
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _top(str(frame.f_globals.get("__name__"))) in known
    ]
    if not frames:
        return None
    frame, line = frames[-1]
    own = known[_top(frame.f_globals["__name__"])]
    who = next(filter(None, (_component_of(f, own) for f, _ in reversed(frames))), None)
    if who is None and len(own) == 1:
        who = own[0]
    name = described(who) if who else " ".join(package_of(own[0]) or (_top(own[0].__module__),))
    checked = who.registry.name_of(who) if who else "NAME"
    said = reason(error)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
    place = f"{Path(frame.f_code.co_filename).name}:{line}"
    how = "" if SHOW in os.environ else f"; {SHOW}=1 shows the traceback"
    msg = f"{name} raised {said} at {place}; try: contrastive plugins check {checked}{how}"
    return PluginError(msg)


def _component_of(frame: FrameType, own: list[type[Config]]) -> type[Config] | None:
    """Return the component that a frame is a method of, or of whose built module."""
    made_of = cast("type", type(frame.f_locals.get("self")))
    if issubclass(made_of, Config) and made_of in own:
        return made_of
    kinds = {BUILT.get(base.__name__) for base in made_of.__mro__}
    fitting = [cls for cls in own if cls.kind in kinds]
    return fitting[0] if len(fitting) == 1 else None


def _foreign_components(cls: type[Config]) -> Iterator[type[Config]]:
    for each in cls.__subclasses__():
        if each.kind and not is_ours(each):
            yield each
        yield from _foreign_components(each)


def _top(module: str) -> str:
    return module.partition(".")[0]
