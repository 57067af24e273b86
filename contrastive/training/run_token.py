"""Which run has a remote output: the one that began last, whose token lies there.

A storage has no locks that all of them know. The run whose token is gone sends nothing more; what
both send at one moment is not told apart.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from contrastive.console import say
from contrastive.data.storage.remote_folders import RemoteFolder, StorageError

NAME = ".contrastive.lock"
LONGEST_TOKEN = 10_000  # bytes
SHAPE = {"token": str, "host": str, "process": int, "since": float}


class RunToken:
    """The token of this run, in its remote output."""

    def __init__(self, remote: RemoteFolder) -> None:
        """Put it there, which shows that the storage can be written to.

        Raises:
            StorageError: it cannot be.
        """
        self._remote = remote
        self._token = secrets.token_hex(8)
        self.is_ours = True
        if about := self._of_other():
            minutes = (time.time() - about["since"]) / 60
            say(
                f"{remote.address}: {_who(about)}, begun {minutes:.0f} min ago, has not ended "
                "there; if it still goes on, it sends nothing more"
            )
        about = {"token": self._token, "host": socket.gethostname()}
        about |= {"process": os.getpid(), "since": time.time()}
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / NAME
            path.write_text(json.dumps(about), encoding="utf-8")
            remote.put(path, NAME)
        if self._read().get("token") != self._token:
            msg = f"{remote.address}: what is written there cannot be read back"
            raise StorageError(msg)

    def other(self) -> str:
        """Return which run has taken our place; "" if none has."""
        about = self._of_other()
        self.is_ours = not about
        return _who(about) if about else ""

    def release(self) -> None:
        """Let another run begin without a word, if the place is still ours."""
        with suppress(StorageError):
            if self.is_ours and not self.other():
                self._remote.remove(NAME)

    def _of_other(self) -> dict[str, Any]:
        about = self._read()
        return about if about.get("token", self._token) != self._token else {}

    def _read(self) -> dict[str, Any]:
        about: Any = None
        with suppress(ValueError, RecursionError):
            about = json.loads(self._remote.read(NAME, LONGEST_TOKEN) or b"null")
        if not isinstance(about, dict):
            return {}
        found = cast("dict[str, Any]", about)
        return found if all(isinstance(found.get(k), kind) for k, kind in SHAPE.items()) else {}


def _who(about: dict[str, Any]) -> str:
    return f"a run of {about['host']} (process {about['process']})"
