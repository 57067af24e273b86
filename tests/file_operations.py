"""Every operation that changes a file below a folder, one of which does not go well.

They are seen by an audit hook of Python, which stays for the life of the process, and by what
stands for ``os.fsync``, ``os.write`` and the exchange of two folders, which no hook sees.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.data.storage import atomic_files

if TYPE_CHECKING:
    from collections.abc import Callable

CRASHED = 77
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
AUDITED = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


class Operations:
    """Counts the operations below ``folder``; ``act`` is called instead of that of number ``at``.

    Once called, ``every`` lets it be called for all that come later, too.
    """

    def __init__(
        self, folder: Path, act: Callable[[], Any], at: int = -1, *, every: bool = False
    ) -> None:
        self.folder = f"{folder}{os.sep}"
        self.act = act
        self.at = at
        self.every = every
        self.names: list[str] = []
        self.lock = threading.Lock()
        sys.addaudithook(self._audit)
        self._stand_for(os, "fsync", _path_of)
        self._stand_for(os, "write", lambda descriptor, _: _path_of(descriptor))
        self._stand_for(atomic_files, "_exchange", lambda _, folder: str(folder))

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, os.PathLike)) and args[2] & WRITES:
            self._count("open", os.fspath(args[0]))
        elif event in AUDITED:
            self._count(event, os.fspath(args[1 if event == "os.link" else 0]))

    def _stand_for(self, owner: Any, name: str, place: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def counted(*args: Any) -> Any:
            def torn() -> None:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])

            self._count(name, place(*args), torn)
            return real(*args)

        setattr(owner, name, counted)

    def _count(self, name: str, path: str, before: Callable[[], None] = lambda: None) -> None:
        if not str(path).startswith(self.folder):
            return
        with self.lock:  # a checkpoint is written in a thread of its own
            number = len(self.names)
            self.names.append(f"{name} {path.removeprefix(self.folder)}")
        if number == self.at or (self.every and number > self.at >= 0):
            before()
            self.act()


def crash() -> None:
    """End the process as a kill does."""
    os._exit(CRASHED)


def fail(number: int) -> Callable[[], None]:
    """Return what fails as a disk does."""

    def failing() -> None:
        raise OSError(number, os.strerror(number))

    return failing


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
