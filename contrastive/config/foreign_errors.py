"""Whose mistake an exception is that went through the code of a plugin, or of the user's own."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.config.base import Config
from contrastive.config.code_users import users_of
from contrastive.config.provenance import described, is_ours, package_of
from contrastive.config.registry import reason
from contrastive.errors import ContrastiveError, PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SHOW = "CONTRASTIVE_TRACEBACK"
"""An environment variable: what is one line has its traceback above it, for authors."""
BUILT = {"EncoderModule": "encoder", "LossModule": "loss"}
CALLERS = {"preprocessed": "encoder", "rows_of": "dataset", "build_split": "dataset"}
"""Functions of ours that call what a component of a kind made."""
MACHINES = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Numbers of errors that are the machine's, whoever meets them: no space, too many open files."""
SAID = {
    os.strerror(errno.ENOSPC): "free some space",
    os.strerror(errno.EDQUOT): "free some space",
    "disk is full": "free some space",  # of SQLite
    os.strerror(errno.EMFILE): "raise their limit (ulimit -n)",
}
"""What libraries say of the machine in errors of their own, and the remedy."""
DEEPEST = 10  # errors that one was made of: they may go in a circle
LONGEST = 300  # characters of somebody else's message


def foreign_error(error: BaseException) -> PluginError | None:
    """Return an error that names the component whose code an exception went through, if one's did.

    That is the innermost code of any package that offers a component in use: libraries below it
    and our own code are called by it.
    """
    if isinstance(error, (ContrastiveError, KeyboardInterrupt)):
        return None
    if isinstance(error, OSError) and error.errno in MACHINES:
        return None
    known: dict[str, list[type[Config]]] = {}
    for cls in _foreign_components(Config):
        known.setdefault(_top(cls.__module__), []).append(cls)
    walked = [*traceback.walk_tb(error.__traceback__)]
    frames = [(frame, line) for frame, line in walked if _module_of(frame) in known]
    if not frames:
        return None
    frame, line = frames[-1]
    own = known[_module_of(frame)]
    who = next(filter(None, (_component_of(f, own) for f, _ in reversed(frames))), None)
    who = who or _only([cls for cls in own if cls.kind in _kinds_called(walked)])
    if not who:  # as in a backward, which no method of a component calls
        own = users_of(frame.f_code, own, _module_of(frame)) or own
        who = _only(own)
    name = described(who) if who else " ".join(package_of(own[0]) or (_module_of(frame),))
    several = [who] if who else own
    checked = ", or ".join(sorted({cls.registry.name_of(cls) for cls in several}))
    said = reason(error)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
    place = f"{Path(frame.f_code.co_filename).name}:{line}"
    how = "" if SHOW in os.environ else f"; {SHOW}=1 shows the traceback"
    if remedy := _of_machine(error):
        msg = f"{remedy} ({name} raised {said} at {place}{how})"
        return PluginError(msg)
    msg = f"{name} raised {said} at {place}; try: contrastive plugins check {checked}{how}"
    return PluginError(msg)


def _of_machine(error: BaseException) -> str:
    """Return what to do if an error, or one that it was made of, is the machine's."""
    cause: BaseException | None = error
    for _ in range(DEEPEST):
        if cause is None:
            break
        said = reason(cause)
        for text, remedy in SAID.items():
            if text in said:
                return f"{text}; {remedy}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _module_of(frame: FrameType) -> str:
    return _top(str(frame.f_globals.get("__name__")))


def _only(several: list[type[Config]]) -> type[Config] | None:
    return several[0] if len(several) == 1 else None


def _kinds_called(walked: list[tuple[FrameType, int]]) -> set[str | None]:
    """Return the kinds of component that code of ours called within a traceback."""
    ours = (frame for frame, _ in walked if _module_of(frame) == "contrastive")
    return {CALLERS.get(frame.f_code.co_name) for frame in ours}


def _component_of(frame: FrameType, own: list[type[Config]]) -> type[Config] | None:
    """Return the component that a frame is a method of, or of whose built module or part."""
    me: object = frame.f_locals.get("self")
    for one in (me, *getattr(me, "__dict__", {}).values()):
        if isinstance(one, Config) and type(one) in own:
            return type(one)
    kinds = {BUILT.get(base.__name__) for base in type(me).__mro__}
    return _only([cls for cls in own if cls.kind in kinds])


def _foreign_components(cls: type[Config]) -> Iterator[type[Config]]:
    for each in cls.__subclasses__():
        if each.kind and not is_ours(each):
            yield each
        yield from _foreign_components(each)


def _top(module: str) -> str:
    return module.partition(".")[0]
